#!/usr/bin/env bash
# CUDA targets: names, what is said where NVRTC is missing, too old or refuses a kernel, and what a compile leaves behind.
# Kernels are compiled where NVRTC is found (PFQC_NVRTC, a CUDA toolkit, the PyPI package nvidia-cuda-nvrtc); no GPU is needed.
. "$(dirname "$0")/common.bash"
sample=$root/samples/tinystories
model=$sample/model.json
refused() { # code, expected text, options: one error, exit 1, nothing left
    local code=$1 text=$2 status=0
    shift 2
    "$PFQC" "$model" -o "$tmp/r" "$@" 2>"$tmp/err" || status=$?
    [ $status -eq 1 ] || fail "$* ended with status $status"
    grep -q "error\[$code\].*$text" "$tmp/err" || fail "$* did not say: $text"
    [ "$(grep -c 'error\[' "$tmp/err")" -eq 1 ] || fail "more than one error"
    [ ! -e "$tmp/r" ] || fail "$* left $(find "$tmp/r")"
}

# 1. Names.
for bad in cuda cuda: cuda:sm_90 sm_90a cuda:sm_99 cuda:h100; do refused E0601 "unknown target '$bad'" --target $bad; done
refused E0601 "unknown target 'cuda:sm_90'" --target cuda:sm_90
grep -q 'did you mean cuda:sm_90a' "$tmp/err" && grep -q 'note: targets:.*cuda:sm_80' "$tmp/err" || fail "no help with cuda:sm_90"

# 2. No NVRTC there.
for nowhere in /nonexistent "$tmp" "$model"; do
    PFQC_NVRTC=$nowhere refused E0605 'no NVRTC library' --target cuda:sm_80,cuda:sm_90a
    grep -q 'hint:.*pip install nvidia-cuda-nvrtc' "$tmp/err" || fail "no way to get NVRTC is named"
    PFQC_NVRTC=$nowhere refused E0605 'no NVRTC library' --target cpu,cuda:sm_90a --check
done

# 3. An NVRTC that is too old for a target, and one that refuses what it is given.
mkdir "$tmp/stub"
cc -shared -fPIC -o "$tmp/stub/libnvrtc.so.12" "$root/tests/cuda/stub_nvrtc.c"
PFQC_NVRTC=$tmp/stub refused E0605 'NVRTC 12.1 makes no code for sm_120a' --target cuda:sm_80,cuda:sm_120a
PFQC_NVRTC=$tmp/stub refused E0605 'NVRTC 12.1 refuses src/cuda/.*\.cu for ' --recipe float --target cuda:sm_80
grep -q 'note: it said' "$tmp/err" && grep -q 'this stub compiles nothing' "$tmp/err" && grep -q 'note: step [0-9]* of @' "$tmp/err" ||
    fail "a refused kernel is not explained"
for kept in no yes; do # what ptxas says of speed is told, also of code from the cache
    PFQC_NVRTC=$tmp/stub PFQ_STUB_NVRTC=slow "$PFQC" "$model" --recipe float --target cuda:sm_80 --cache "$tmp/slow" -o "$tmp/out-slow" 2>"$tmp/err" ||
        fail "slow code is refused"
    grep -qE 'nvrtc: warning: NVRTC 12.1 finds too few registers in [0-9]+ kernels, such as' "$tmp/err" && grep -q 'hint: .*PFQC_NVRTC' "$tmp/err" ||
        fail "slow code ($kept in the cache) is not told"
done

# 4. Where there is an NVRTC, every kernel of four kinds of recipe compiles.
if ! "$PFQC" "$model" --check --target cuda:sm_80 2>"$tmp/err"; then
    grep -q 'E0605.*not on this machine' "$tmp/err" || fail "NVRTC is there but cannot be used"
    echo "NVRTC is not on this machine: no kernel was compiled"
    exit 77
fi
cp -r "$sample" "$tmp/model"
model=$tmp/model/model.json
sed -i 's/^{/{ "calibration": {"samples": 2, "length": 32},/' "$model"
cache=${PFQC_TEST_CACHE:-$tmp/cache}
compile() { # recipe, targets, folder, options
    local recipe=$1 targets=$2 out=$3
    shift 3
    "$PFQC" "$model" --recipe $recipe --target $targets --cache "$cache" -o "$out" "$@" 2>"$tmp/err" || fail "$recipe for $targets"
}
without_code() { PFQC_NVRTC=$tmp/stub PFQ_STUB_NVRTC=code compile "$@"; } # where code is not what is looked at
traced() { # model.c: the calls of every code and phase, as --trace names them, are all steps of the IR's
    awk '/^static const PfqStep steps_/ { split($4, w, /[_[]/); into = "steps " w[2] }
         /^static const PfqCudaCall (prefill|logits|decode)_/ { split($4, w, "_"); codes[$4] = w[1]; into = $4 }
         /^}/ { into = "" }
         into ~ /^steps/ && match($0, /^ *[{][0-9]+/) { step = substr($0, RSTART, RLENGTH); gsub(/[^0-9]/, "", step); want[into, step] = 1 }
         into ~ /_/ && match($0, /[.]step = [0-9]+/) { got[into, substr($0, RSTART + 8, RLENGTH - 8)] = 1 }
         END { for (c in codes) for (k in want) { split(k, p, SUBSEP); if (p[1] == "steps " codes[c]) { n++; if (!((c, p[2]) in got)) { print c " lacks step " p[2]; bad = 1 } } }
               exit bad || n < 20 }' "$1" || fail "the calls of GPUs do not name the steps of the IR"
}
sources() { # folder: they are whole and stand alone
    local out=$1 k
    [ "$(find "$out/src/cuda" -maxdepth 1 -name '*.cu' | wc -l)" = "$(sed -n '/"cuda_kernels"/,$p' "$out/plan.json" | grep '"template"' | grep -vc code_of)" ] || fail "not one source per kernel"
    if grep -rn '#include *<' "$out/src/cuda"; then fail "a source includes a header of the system"; fi
    for k in $(grep -rhoE '#include "[^"]*"' "$out/src/cuda"/*.cu | cut -d'"' -f2 | sort -u); do
        [ -f "$out/src/cuda/$k" ] || fail "$k is included and not there"
    done
    traced "$out/src/model.c"
    cc -std=c17 -Wall -Wextra -Werror -c "$out/src/model.c" -o "$tmp/model.o"
}
for recipe in float bf16 w8a8-dynamic w4a16 prefixquant-w4a8kv4; do
    compile $recipe cuda:sm_80,cuda:sm_90a "$tmp/$recipe"
    sources "$tmp/$recipe"
    [ ! -e "$tmp/$recipe/src/kernels" ] || fail "a program for GPUs alone has CPU kernels"
    grep -q '"sm_90a": [1-9]' "$tmp/$recipe/plan.json" || fail "plan.json does not tell the size of code"
done
grep -q '"name": "step4"' "$tmp/prefixquant-w4a8kv4/plan.json" || fail "a step of a few sequences is not one kernel"

# More sequences in a step of one kernel where that is asked for, as far as asked; made-up weights, as tinystories' heads are too small.
mkdir "$tmp/synthetic"
cp "$root/samples/llama3.2-1b-synthetic/recipe.json" "$tmp/synthetic"
sed 's/"L": 16/"L": 2/; s/"vocab": 128256/"vocab": 512/' "$root/samples/llama3.2-1b-synthetic/model.json" >"$tmp/synthetic/model.json"
for n in 0 17; do
    [ "$("$PFQC" "$model" --step-rows $n --check 2>&1)" = "--step-rows: error[E0703]: $n, expected 1 to 16" ] || fail "--step-rows $n is taken"
done
for n in 2 4 12; do
    PFQC_NVRTC=$tmp/stub PFQ_STUB_NVRTC=code "$PFQC" "$tmp/synthetic/model.json" --target cuda:sm_90a --step-rows $n -o "$tmp/synthetic/$n" 2>"$tmp/err" ||
        fail "--step-rows $n"
    ranges=$(grep -oE 'G_step[0-9]+, .from = [0-9]+, .to = [0-9]+' "$tmp/synthetic/$n/src/model.c" | tr -dc '0-9 \n' | tr -s ' \n' ' ')
    case $n:$ranges in
    "2:4 2 2 " | "4:4 2 4 " | "12:4 2 4 16 5 12 ") ;;
    *) fail "--step-rows $n: kernels, from and to are $ranges" ;;
    esac
done

# Layers that turn by other frequencies are no one kernel, which has one table of them.
mkdir "$tmp/turns"
cp -r "$tmp/model/." "$tmp/turns"
freqs='{"id": "freqs", "op": "rope_freqs", "dim": 16'
sed -i "/$freqs/d; s/\"nodes\": \[/&\n      $freqs, \"theta\": \"l == 0 ? 10000 : 1000000\"},/" "$tmp/turns/model.json"
for m in model turns; do
    PFQC_NVRTC=$tmp/stub PFQ_STUB_NVRTC=code "$PFQC" "$tmp/$m/model.json" --set weights.method=rtn --target cuda:sm_90a -o "$tmp/turns/$m" 2>"$tmp/err" || fail "$m"
    how=$(sed -n 's/.*"cuda_decode": {"sm_90a": "\([^"]*\)".*/\1/p' "$tmp/turns/$m/plan.json")
    case $m:$how in
    "model:one kernel" | "turns:a graph of kernels: layers turn by different frequencies") ;;
    *) fail "$m: $how" ;;
    esac
done

# More kernels than there is room for, as every layer has options of its own.
layers=$(seq 0 70)
sed 's/"L": 16/"L": 71/; s/"hidden": 2048, "heads": 32, "kv_heads": 8, "head_dim": 64, "ffn": 8192, "vocab": 128256/"hidden": 64, "heads": 2, "kv_heads": 1, "head_dim": 32, "ffn": 64, "vocab": 64/' \
    "$root/samples/llama3.2-1b-synthetic/model.json" >"$tmp/synthetic/model.json"
for i in $layers; do echo "\"dynamic-scales{a=8,kv=4,clip=0.$((100 + i)),only=*.$i}\","; done >"$tmp/passes"
sed -i -e '/static-scales/{s/"weights{bits=4,method=rtn}",.*/"weights{bits=4,method=rtn}",/' -e "r $tmp/passes" -e '}' "$tmp/synthetic/recipe.json"
model=$tmp/synthetic/model.json PFQC_NVRTC=$tmp/stub PFQ_STUB_NVRTC=code refused E0704 'more than 512 kernels' --target cuda:sm_80,cuda:sm_90a

# 5. All other targets, beside a CPU, which runs as ever.
compile w4a16 cpu:x86-64-v3,cuda:sm_86,cuda:sm_89,cuda:sm_100a,cuda:sm_103a,cuda:sm_120a "$tmp/all"
sources "$tmp/all"
"$tmp/all/tinystories" self-test --device cpu >"$tmp/err" 2>&1 || fail "self-test on the CPU"

# PTX asks for no newer a driver than the cubins of the same compiler.
if grep -aoE '^\.version [0-9]+\.[0-9]+' "$tmp/all/tinystories" | grep -v '\.0$'; then fail "PTX wants a newer driver than cubins"; fi

# 6. The same bytes again, with another number of threads, over what another compile left; by NVRTC, from kept kernels, and where
# those are damaged.
cache=$tmp/fresh
mkdir -p "$tmp/a b"
without_code float cpu:x86-64-v3,cuda:sm_80,cuda:sm_90a "$tmp/a b/out"
(export TZ=Asia/Tokyo HOME=/ && compile w4a16 cuda:sm_90a,cuda:sm_80 "$tmp/a b/out" --threads 1)
rm -rf "$tmp/a b/out/src/templates" "$tmp/a b/out/src/kernels"
diff -r "$tmp/w4a16" "$tmp/a b/out" || fail "the outputs differ"
[ "$(find "$cache/kernels" -type f | wc -l)" -gt 10 ] || fail "no kernels are kept"
for k in "$cache"/kernels/*; do
    case $k in
    *[0-4]) printf X | dd of="$k" bs=1 seek=100 conv=notrunc 2>/dev/null ;;
    *[5-9]) truncate -s 60 "$k" ;;
    esac
done
compile w4a16 cuda:sm_90a,cuda:sm_80 "$tmp/kept"
diff -r "$tmp/w4a16" "$tmp/kept" || fail "kept kernels are others"
rm "$cache"/kernels/* && rmdir "$cache/kernels" && touch "$cache/kernels"
compile float cuda:sm_80 "$tmp/kept"
cache=${PFQC_TEST_CACHE:-$tmp/cache}
if grep -rlaF -e "$tmp" -e "$(dirname "$PFQC")" "$tmp/w4a16"; then fail "a path leaked"; fi

# 7. A program for GPUs alone, weights inside; without a driver it says so.
without_code w4a16 cuda:sm_80 "$tmp/e" --embed-weights
[ ! -e "$tmp/e/tinystories.weights" ] || fail "--embed-weights left a weights file"
if PFQC_CUDA_DRIVER=/nonexistent "$tmp/e/tinystories" self-test >"$tmp/err" 2>&1; then fail "ran without a driver"; fi
[ "$(wc -l <"$tmp/err")" -le 2 ] && grep -qi 'driver\|GPU' "$tmp/err" || fail "no sentence about the driver"
echo "cuda_targets: kernels compile for every target, sources stand alone, refusals are clean"
