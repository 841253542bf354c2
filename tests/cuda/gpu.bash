# What the scripts for a real GPU begin with: $root of the sources, $bin (from $PFQC_BIN: the folder of kernels-gpu.so, gpu_code and
# compare_logits) and $test, the program test_kernels, $tmp that goes away; exit status 77 where there is no GPU.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=${PFQC_BIN:-$root/build/tests/cuda}
test=$bin/test_kernels
[ -x "$test" ] || test=$bin/../kernels/test_kernels
[ -c /dev/nvidiactl ] || { echo "there is no NVIDIA GPU"; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

gpu_arch() { # NVRTC's name of it
    local capability
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    case $capability in 9? | 1??) capability=${capability}a ;; esac
    echo sm_$capability
}

kernel_code() { # folder: templates as code and PTX, and specialised code of some cases
    mkdir -p "$tmp/sources"
    "$bin/gpu_code" "$1" "$(gpu_arch)" || exit $?
    "$bin/gpu_code" "$1" compute_80 || exit $?
    PFQ_GPU_RECORD=$tmp/sources "$test" gpu "$bin/kernels-gpu.so" >/dev/null
    "$bin/gpu_code" "$1/special" "$(gpu_arch)" "$tmp"/sources/*.cu || exit $?
}

program_in() { # folder: the file
    local f
    for f in "$1"/*; do case $f in *.so) ;; *) [ ! -f "$f" ] || [ ! -x "$f" ] || echo "$f" ;; esac; done
}

each_recipe() { # target, command, arguments: the command with a folder of tinystories compiled by $PFQC under each recipe
    local recipe folder
    for recipe in "$root"/passes/recipes/*.json; do
        folder=$tmp/$(basename "$recipe" .json)
        "$PFQC" "$root/samples/tinystories/model.json" --recipe "$recipe" --target "$1" --cache "$tmp/cache" -o "$folder" >"$tmp/log" 2>&1 ||
            { cat "$tmp/log"; exit 1; }
        "${@:2}" "$folder"
    done
}
