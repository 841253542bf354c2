#!/usr/bin/env bash
# compute-sanitizer over everything that runs on a GPU: memcheck, racecheck, initcheck and synccheck of programs (prefill of many
# tokens, logits of many rows; a token as one kernel and as a graph; single launches; batches; tokens chosen on the GPU) and of
# test_kernels, by plain kernels and by rows FAST, each operand in an allocation of its own. racecheck, which may be a hundred times as
# slow, has a run to itself for each group of rows, and decodes fewer tokens.
#
#   sanitize.sh [-k CODE] [-t TOOL]... [-n N] [-f ROWS]... [FOLDER...]     as for kernels.sh and device.sh; -k -: no kernels; -n: how
#                     many launches of each, about (PFQ_GPU_EACH); -f: these rows FAST alone (PFQ_FAST); FOLDER -: no programs
#
# $PFQC_BIN as there; $PFQC_JOBS: how many at a time. Exit status: 1 if anything is found, 77 where there is no GPU or no
# compute-sanitizer. The reports of what failed are printed.
. "$(dirname "$0")/gpu.bash"
code=
tools=
each=8
only=
while getopts k:t:n:f: option; do
    case $option in
    k) code=$OPTARG ;;
    t) tools="$tools $OPTARG" ;;
    n) each=$OPTARG ;;
    f) only="$only $OPTARG" ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
tools=${tools:-memcheck racecheck initcheck synccheck}
others=$(echo " $tools " | sed 's/ racecheck / /')
export PATH=$PATH:/usr/local/cuda/bin
command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is not installed"; exit 77; }

# Rows FAST of a run of racecheck, by how their names begin.
groups="wg4_64* wg4_128x8* wg4_128x1* wg4_128x3* wg4_128x6* wg4_256* wg8_* wg16_* mma4_* mma8_* mma16_* mmag_32* mmag_64* mmag_128* mmag_256*
split,wgmma,half_cache,attend_mma,each rows,rows_quant,half,rows_hadamard"

# A line per run: name, then the command. Ports differ, so that runs beside each other do not meet.
n=0
>"$tmp/runs"
add() { # name, command
    for tool in $tools; do
        case $tool-$1 in initcheck-*-batch[0-9]*) continue ;; esac # bench's copy of 512 MiB would take it minutes; self-test has batches
        n=$((n + 1))
        local options="--tool $tool --error-exitcode 9 --print-limit 4 --launch-timeout 120 --port $((20000 + 16 * n))"
        [ $tool != memcheck ] || options="$options --leak-check full"
        printf '%s\t%s\n' "$tool-$1" "compute-sanitizer $options ${*:2}" >>"$tmp/runs"
    done
}

uses() { # tool
    case " $tools " in *" $1 "*) ;; *) return 1 ;; esac
}

decodes() { # tools, tokens
    local way
    for way in step graph; do
        tools=$1 add "$name-$way" "$binary" logits --device cuda --tokens "$(ids $2 $vocabulary)" --decode --cuda-decode $way ${PFQC_RUN_OPTIONS:-}
    done
}

programs() { # folder
    local binary name vocabulary context most=
    binary=$(program_in "$1")
    name=$(basename "$1")
    "$binary" info >"$tmp/info"
    vocabulary=$(field vocabulary: "$tmp/info")
    context=$(field context: "$tmp/info")
    most=$((context > 600 ? 530 : 130))
    add "$name-prefill" "$binary" logits --device cuda --tokens "$(ids $most $vocabulary)" --all ${PFQC_RUN_OPTIONS:-}
    decodes "$others" 20
    ! uses racecheck || decodes racecheck 3
    add "$name-launches" "$binary" self-test --device cuda --cuda-sync ${PFQC_RUN_OPTIONS:-}
    ! uses initcheck || tools=initcheck add "$name-batches" "$binary" self-test --device cuda ${PFQC_RUN_OPTIONS:-}
    for batch in $([ $most = 130 ] && echo 30 || echo 40 200); do
        add "$name-batch$batch" "$binary" bench --device cuda -p 0 -n 2 -r 1 -d 70 -b $batch ${PFQC_RUN_OPTIONS:-}
    done
    ! "$binary" tokenize x >"$tmp/log" 2>&1 || add "$name-draws" "$binary" run --device cuda -p x -n 10 --temp 0.8 --seed 1 ${PFQC_RUN_OPTIONS:-}
}

if [ "$code" != - ]; then
    [ -n "$code" ] || kernel_code "${code:=$tmp/code}"
    kernels() { # name, rows FAST, tools
        tools=$3 add "kernels-$1" env $2 PFQ_GPU_EXACT=1 PFQ_GPU_EACH=$each PFQ_GPU_CODE="$code" "$test" gpu "$bin/kernels-gpu.so"
    }
    if [ -n "$only" ]; then
        for rows in $only; do kernels "${rows//\*/}" "PFQ_FAST=$rows" "$tools"; done
    else
        kernels plain "" "$tools"
        kernels fast PFQ_FAST=1 "$others"
        for rows in $groups; do
            ! uses racecheck || kernels "${rows//\*/}" "PFQ_FAST=$rows" racecheck
        done
    fi
fi
if [ $# -gt 0 ]; then
    for folder in "$@"; do [ "$folder" = - ] || programs "$folder"; done
else
    each_recipe cuda:sm_80,cuda:sm_90a programs
    each_synthetic cuda:sm_90a programs
fi
one() { # line of $tmp/runs, folder
    local name=${1%%$'\t'*} command=${1#*$'\t'}
    timeout ${PFQC_TIMEOUT:-580} $command >"$2/$name.log" 2>&1
    local r=$?
    if [ $r = 0 ]; then
        echo "ok     $name"
    else
        echo "FAILED $name ($r)"
        grep -m1 'ERROR SUMMARY\|RACECHECK SUMMARY' "$2/$name.log"
        grep '^=========' "$2/$name.log" | head -30
        grep -v '^=========' "$2/$name.log" | sed -n '1,2p;$p' | cut -c1-300
        touch "$2/failed"
    fi
}
export -f one
tr '\n' '\0' <"$tmp/runs" | xargs -0 -P "${PFQC_JOBS:-4}" -I{} bash -c 'one "$1" "$2"' _ {} "$tmp"
[ ! -e "$tmp/failed" ] || { echo "sanitize: something is found"; exit 1; }
echo "sanitize: $(wc -l <"$tmp/runs") runs, nothing is found"
