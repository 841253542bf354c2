#!/usr/bin/env bash
# Programs on a real GPU against themselves on the CPU: self-test (recorded decode and one kernel at a time), perplexity within
# 0.5 %, probabilities, the likeliest tokens, greedy text; and the code made for the GPU against the plain kernels' PTX.
#
#   device.sh [FOLDER...]    folders of programs, best with code for both; without any, tinystories is compiled under every
#                            recipe with $PFQC, and the checkpoint $PFQC_SMOLLM2 under some, if that is set
#
# $PFQC_BIN: see gpu.bash. $PFQC_RUN_OPTIONS: further options of every run on the GPU. Exit status 77 where there is no GPU.
. "$(dirname "$0")/gpu.bash"
failed=0
gpu="--device cuda ${PFQC_RUN_OPTIONS:-}"

problem() { # program, what; the last output is in $tmp/log
    echo "FAILED $1: $2"
    tail -5 "$tmp/log"
    failed=$((failed + 1))
}
field() { # name, in $tmp/log
    sed -n "s/.*\b$1 \([-0-9.e+]*\).*/\1/p" "$tmp/log" | tail -1
}
greedy() { # binary, options: 200 tokens
    timeout 120 "$1" run -p "$prompt" -n 200 -c 256 --temp 0 ${@:2} 2>"$tmp/log"
}

# What is scored: text of the program itself on the CPU, which is likely enough to be sharp and unlike between models.
make_text() { # binary
    for seed in 1 2 3 4 5 6; do
        timeout 300 "$1" run -p "$prompt" -n 240 -c 256 --temp 0.8 --seed $seed --device cpu 2>"$tmp/log" || return 1
        echo
    done >"$tmp/text"
}

# The GPU's code against PTX of the plain kernels on the same GPU, in prefills of some lengths and one decode: rows of logits.
check_codes() { # binary, name
    local worst="0 equal" got n way
    timeout 60 "$1" info $gpu >"$tmp/log" 2>&1
    grep -q 'targets:.*compute_80' "$tmp/log" && ! grep -q 'gpu code: compute_80' "$tmp/log" || return
    for n in $lengths; do
        way=
        [ $n -gt 0 ] || way=--decode
        for code in "" compute_80; do
            timeout 200 "$1" logits --tokens $(seq -s, 5 $((n > 0 ? 4 + n : 44))) $way $gpu ${code:+--cuda-code $code} \
                >"$tmp/code$code.json" 2>"$tmp/log" || { problem "$2" "logits of $n tokens, code $code"; return; }
        done
        got=$("$bin/compare_logits" "$vocabulary" "$tmp/codecompute_80.json" "$tmp/code.json" ${PFQC_MAX_KL:-5e-3} 0 2>&1) ||
            { echo "$got" >"$tmp/log"; problem "$2" "$n tokens $way: sm_90a against compute_80"; }
        worst=$(printf '%s\n%s\n' "$worst" "$(echo "$got" | awk '{print $2}') $n tokens $way: $got" | sort -g | tail -1)
    done
    echo "    code against compute_80, worst: ${worst#* }"
}
lengths="1 2 7 16 17 64 100 129 200 0"

check() { # folder
    local binary name vocabulary cpu cuda away
    binary=$(echo "$1"/*.weights)
    binary=${binary%.weights}
    name=$(basename "$1")
    prompt="Once upon a time there was a little"
    timeout 60 "$binary" info --device cuda >"$tmp/log" 2>&1 || { problem "$name" "info"; return; }
    vocabulary=$(field vocabulary:)
    if ! grep -q 'cpu variant:' "$tmp/log"; then
        echo "$name: has no code for CPUs"
        check_codes "$binary" "$name"
        return
    fi
    for option in "" --cuda-sync; do
        timeout 120 "$binary" self-test $gpu $option >"$tmp/log" 2>&1 || { problem "$name" "self-test $option"; return; }
        grep -q 'prefill: ok' "$tmp/log" && grep -q 'decode: ok' "$tmp/log" || problem "$name" "self-test $option compares nothing"
    done
    make_text "$binary" || { problem "$name" "run on the CPU"; return; }
    for device in "--device cpu" "$gpu"; do
        timeout 300 "$binary" ppl "$tmp/text" -c 128 $device --save-logits "$tmp/${device:9:4}.logits" >"$tmp/log" 2>&1 ||
            { problem "$name" "ppl $device"; return; }
        [ "$device" = "--device cpu" ] && cpu=$(field ppl) || cuda=$(field ppl)
    done
    away=$(awk "BEGIN { printf \"%.3f\", 100 * ($cuda / $cpu - 1) }")
    awk "BEGIN { exit !($away > -0.5 && $away < 0.5) }" || problem "$name" "ppl $cpu on the CPU, $cuda on the GPU"
    "$bin/compare_logits" "$vocabulary" "$tmp/cpu.logits" "$tmp/cuda.logits" ${PFQC_MAX_KL:-5e-3} ${PFQC_MIN_TOP1:-0.97} >"$tmp/log" 2>&1 ||
        problem "$name" "logits of ppl"
    local logits
    logits=$(cat "$tmp/log")
    greedy "$binary" --device cpu >"$tmp/cpu.txt" || { problem "$name" "greedy text on the CPU"; return; }
    greedy "$binary" $gpu >"$tmp/cuda.txt" || { problem "$name" "greedy text on the GPU"; return; }
    greedy "$binary" $gpu >"$tmp/again.txt"
    cmp -s "$tmp/cuda.txt" "$tmp/again.txt" || problem "$name" "two greedy runs on the GPU differ"
    local text=equal
    cmp -s "$tmp/cpu.txt" "$tmp/cuda.txt" || text="differs at $(cmp "$tmp/cpu.txt" "$tmp/cuda.txt" | sed 's/.*byte \([0-9]*\).*/\1/') of $(wc -c <"$tmp/cpu.txt") bytes"
    local ids decode
    ids=$(timeout 60 "$binary" tokenize "$(head -c 700 "$tmp/text" | tr '\n' ' ')" 2>"$tmp/log" | tr ' ' '\n' | head -150 | paste -sd,)
    for device in "--device cpu" "$gpu"; do
        timeout 120 "$binary" logits --tokens "$ids" --all --decode $device >"$tmp/${device:9:4}.json" 2>"$tmp/log" ||
            { problem "$name" "decode $device"; return; }
    done
    "$bin/compare_logits" "$vocabulary" "$tmp/cpu.json" "$tmp/cuda.json" ${PFQC_MAX_KL:-5e-3} ${PFQC_MIN_TOP1:-0.97} >"$tmp/log" 2>&1 ||
        problem "$name" "logits of decode"
    decode=$(cat "$tmp/log")
    printf '%-30s ppl %s %s (%s %%)\n    prefill %s\n    decode  %s\n    greedy text %s\n' "$name" "$cpu" "$cuda" "$away" "$logits" \
        "$decode" "$text"
    check_codes "$binary" "$name"
}

smollm2() { # recipe
    local folder=$tmp/smollm2-$1
    "$PFQC" "$tmp/smollm2.json" --recipe "$1" --target "$targets" --cache "$tmp/cache" -o "$folder" >"$tmp/log" 2>&1 ||
        { problem "$folder" "compile"; return; }
    check "$folder"
}

targets=cpu,cuda:sm_80,cuda:sm_90a
if [ $# -gt 0 ]; then
    for folder in "$@"; do check "$folder"; done
else
    each_recipe $targets check
    if [ -n "${PFQC_SMOLLM2:-}" ]; then
        "$PFQC" init "$PFQC_SMOLLM2" -o "$tmp/smollm2.json" >"$tmp/log" 2>&1 || problem smollm2 "init"
        for recipe in float w4a16 prefixquant-w4a8kv4 prefixquant-w4a4kv4-dynamic; do smollm2 $recipe; done
    fi
fi
[ $failed = 0 ] || { echo "device: $failed failures"; exit 1; }
echo "device: GPU and CPU agree"
