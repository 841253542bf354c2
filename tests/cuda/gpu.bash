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

ids() { # how many, vocabulary: tokens of a prompt
    seq "$1" | awk '{ printf "%s%d", (NR > 1 ? "," : ""), 5 + ($1 - 1) % ('"$2"' - 5) }'
}

field() { # name, file: the number behind it
    sed -n "s/.*\b$1 \([-0-9.e+]*\).*/\1/p" "$2" | tail -1
}

# And one that no recipe is: linears in layers read 16 bits with a scale a row, which decoding as one kernel has, too.
each_recipe() { # target, command, arguments: the command with a folder of tinystories compiled by $PFQC under each recipe
    local recipe folder
    sed 's/dtype=s8,only=layers/dtype=s16,only=layers/' "$root/passes/recipes/w8a8-dynamic.json" >"$tmp/w8a16.json"
    for recipe in "$root"/passes/recipes/*.json "$tmp/w8a16.json"; do
        folder=$tmp/$(basename "$recipe" .json)
        "$PFQC" "$root/samples/tinystories/model.json" --recipe "$recipe" --target "$1" --cache "$tmp/cache" -o "$folder" >"$tmp/log" 2>&1 ||
            { cat "$tmp/log"; exit 1; }
        "${@:2}" "$folder"
    done
}

# Made-up weights in two layers, with the head sizes of large models: what takes the rows FAST that tinystories is too small for. A
# name, and what sed makes of the sample's recipe, if it is none of its own; w4a8 and w4a16 also in a layer wide enough for the rows of many columns.
synthetic_recipes="w4a8 b
w4a4 s/{a=8,kv=4/{a=4,kv=4/
w8a8 s/bits=4/bits=8/;s/{a=8,kv=4/{a=8,kv=8/
w4a4-dynamic s/static-scales{[^}]*}/dynamic-scales{a=4,kv=4,clip=0.9,kvclip=0.95,kvasym}/;s/\"prefix\",//
w8a8-dynamic s/bits=4/bits=8/;s/static-scales{[^}]*}/dynamic-scales{a=8,kv=8}/
bf16 b
w4a16 b"

each_synthetic() { # target, command, arguments: the command with a folder of each, compiled by $PFQC
    local sample=$root/samples/llama3.2-1b-synthetic shape heads kv_heads head_dim ffn layers dims recipe how folder
    for shape in "8 2 64 1024 2" "4 1 128 1024 2" "4 1 128 8192 1"; do
        read -r heads kv_heads head_dim ffn layers <<<"$shape"
        dims="\"L\": $layers, \"hidden\": 512, \"heads\": $heads, \"kv_heads\": $kv_heads, \"head_dim\": $head_dim, \"ffn\": $ffn"
        sed "s/\"dims\": .*/\"dims\": {$dims, \"vocab\": 512, \"context\": 1024},/" "$sample/model.json" >"$tmp/synthetic.json"
        while read -r recipe how; do
            [ "$layers" = 2 ] || [ "$recipe" = w4a8 ] || [ "$recipe" = w4a16 ] || continue
            folder=$tmp/synthetic-$head_dim-$ffn-$recipe
            if [ -f "$root/samples/llama3-8b-synthetic/$recipe.json" ]; then
                cp "$root/samples/llama3-8b-synthetic/$recipe.json" "$tmp"
            else
                sed "$how" "$sample/recipe.json" >"$tmp/$recipe.json"
            fi
            "$PFQC" "$tmp/synthetic.json" --recipe "$tmp/$recipe.json" --target "$1" --cache "$tmp/cache" -o "$folder" >"$tmp/log" 2>&1 ||
                { cat "$tmp/log"; exit 1; }
            "${@:2}" "$folder"
        done <<<"$synthetic_recipes"
    done
}
