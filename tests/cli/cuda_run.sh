#!/usr/bin/env bash
# Programs for GPUs run whole models without one: the emitted kernels are compiled for the host with emulated threads
# (tests/cuda/simt.h) and launched by a stub of the driver, from the tables in the program, on its own weight image. What
# self-test expects is from the reference evaluator, so kernels, tables, places and runtime are judged together.
. "$(dirname "$0")/common.bash"
clang=$(command -v clang-19 || true)
[ -n "$clang" ] || { echo "clang-19 is not installed"; exit 77; }
sample=$root/samples/tinystories/model.json
if ! "$PFQC" "$sample" --check --target cuda:sm_80 2>"$tmp/err"; then
    grep -q 'E0605.*not on this machine' "$tmp/err" || fail "NVRTC is there but cannot be used"
    echo "NVRTC is not on this machine: no program was made"
    exit 77
fi

# A specialised source holds its constants; a template's kernels that it drops are left in, so their names repeat.
printf '#undef PFQ_CONST\n#define PFQ_CONST(type, name)\n' >"$tmp/constants.h"
flags="-O1 -fPIC -march=x86-64-v3 -fno-math-errno -ffp-contract=off -I$root"
"$clang" $flags -std=gnu17 -c "$root/tests/cuda/simt.c" -o "$tmp/simt.o"
"$clang" $flags -x c++ -std=c++17 -fno-exceptions -fno-rtti -include "$root/tests/cuda/simt.h" \
    -c "$root/tests/cuda/hopper_simt.cu" -o "$tmp/hopper_simt.o"
"$clang" $flags -std=gnu17 -shared "$root/tests/cuda/stub_driver.c" -o "$tmp/libcuda.so.1"
mkdir "$tmp/nvrtc"
"$clang" $flags -std=gnu17 -shared "$root/tests/cuda/stub_nvrtc.c" -o "$tmp/nvrtc/libnvrtc.so.12"
mkdir "$tmp/objects"
library() { # folder of sources: kernels.so beside the program; what an earlier program had too is not compiled again
    local out=$1 k name entry o objects=
    for k in "$out"/src/cuda/*.cu; do
        name=$(basename "$k" .cu)
        o=$tmp/objects/$name-$(sha256sum <"$k" | cut -c1-32).o
        objects="$objects $o"
        [ ! -e "$o" ] || continue
        entry=$(sed -n "s/^#define \(pfq_[a-z0-9_]*\) $name\$/\1/p" "$k")
        "$clang" $flags -x c++ -std=c++17 -fno-exceptions -fno-rtti -include "$root/tests/cuda/simt.h" -include "$tmp/constants.h" \
            -D${entry}_simt="$name" -c "$k" -o "$o" 2>"$tmp/err" || fail "$name.cu for the host"
    done
    "$clang" -shared -Wl,-z,muldefs $objects "$tmp/simt.o" "$tmp/hopper_simt.o" -lm -o "$out/kernels.so"
}
compile() { # model.json, targets, options: the program and its kernels for the host in $tmp/out, its name in $name
    rm -rf "$tmp/out"
    "$PFQC" "$1" --target "$2" --cache "${PFQC_TEST_CACHE:-$tmp/cache}" -o "$tmp/out" "${@:3}" 2>"$tmp/err" || fail "$* does not compile"
    name=$(basename "$tmp/out"/*.weights .weights)
    library "$tmp/out"
}
on_threads() { # options of the program
    PFQC_CUDA_DRIVER=$tmp/libcuda.so.1 PFQ_STUB_KERNELS=$tmp/out/kernels.so "$tmp/out/$name" "$@" --device cuda
}
self_test() { # what it is; also in memory full of NaN
    on_threads self-test --cuda-sync >"$tmp/err" 2>&1 || fail "self-test of $1 with --cuda-sync"
    on_threads self-test --cuda-decode graph >"$tmp/err" 2>&1 || fail "self-test of $1 with a graph of kernels"
    on_threads self-test >"$tmp/err" 2>&1 || fail "self-test of $1"
    grep -q 'prefill: ok' "$tmp/err" && grep -q 'decode: ok' "$tmp/err" && grep -q 'batch: ok' "$tmp/err" || fail "nothing was compared with $1"
}
# Nobody runs the GPU's code here: that NVRTC takes these kernels was seen before, in this test or in cuda_targets.
without_code() { PFQC_NVRTC=$tmp/nvrtc PFQ_STUB_NVRTC=code "$@"; }
check() { # model.json, recipes
    local model=$1 recipe
    shift
    sed -i 's/^{/{ "calibration": {"samples": 2, "length": 32},/' "$model"
    for recipe in "$@"; do
        compile "$model" cuda:sm_90a --recipe $recipe
        self_test "$name, $recipe"
    done
}

# Made-up weights: the program for GPUs alone makes those that one for CPUs too has in its image.
cp -r "$root/samples/llama3.2-1b-synthetic" "$tmp/synthetic"
small=$tmp/synthetic/model.json
sed -i 's/"dims": .*/"dims": {"L": 2, "hidden": 96, "heads": 6, "kv_heads": 2, "head_dim": 16, "ffn": 176, "vocab": 300, "context": 64},/' "$small"
for target in sm_90a sm_80; do
    for cpu in '' ,cpu:x86-64-v3; do
        ${cpu:+without_code} compile "$small" cuda:$target$cpu
        self_test "made-up weights${cpu:+ from the image}"
        on_threads logits --tokens 1,5,200,7,9,17,33 --all >"$tmp/logits$cpu" || fail "logits of made-up weights"
    done
    cmp "$tmp/logits" "$tmp/logits,cpu:x86-64-v3" || fail "generated weights are not those that pfqc computes"
done

# Tokens that the GPU chooses are those that the CPU would.
compile "$sample" cuda:sm_90a,cpu --recipe float
for options in "" "--temp 1 --seed 3" "--temp 1.3 --top-k 0 --min-p 0 --top-p 0.9" "--temp 1 --top-k 0 --min-p 0 --top-p 1"; do
    "$tmp/out/$name" run -p "Once upon a time" -n 12 --device cpu $options >"$tmp/cpu" 2>"$tmp/err" || fail "run $options on the CPU"
    PFQC_CUDA_DRIVER=$tmp/libcuda.so.1 PFQ_STUB_KERNELS=$tmp/out/kernels.so "$tmp/out/$name" run -p "Once upon a time" -n 12 --device cuda \
        $options >"$tmp/gpu" 2>"$tmp/err" || fail "run $options on a GPU"
    cmp "$tmp/cpu" "$tmp/gpu" || fail "run $options: other tokens on a GPU"
    ! grep -q "by the host" "$tmp/err" || fail "run $options: the host chooses"
done

cp -r "$(dirname "$sample")" "$tmp/model"
without_code check "$tmp/model/model.json" float bf16 w4a16 prefixquant-w4a8kv4 ${PFQC_TEST_FULL:+w8a8-dynamic quarot-w4a4kv4}

# Biases, windows, partial RoPE, norms of heads; all checkpoints and recipes in a full run.
for golden in "$root"/tests/data/arch/*/golden.json; do
    dir=$(dirname "$golden")
    name=$(basename "$dir")
    recipes="float w4a16 prefixquant-w4a8kv4 prefixquant-w8a8kv8-dynamic"
    case ${PFQC_TEST_FULL:-}$name in
    1llama-llama3 | 1qwen3-v5) recipes="float w4a16" ;; # heads of 12 and 10 columns, which R3 cannot take
    1*) ;;
    llama-bias) recipes="w8a8-dynamic" ;;
    mistral-window) recipes="prefixquant-w4a8kv4" ;;
    phi3-partial) recipes="w4a16" ;;
    qwen3) recipes="prefixquant-w4a4kv4-dynamic" ;;
    *) continue ;;
    esac
    src=$dir
    [ -f "$dir/$name.gguf" ] && src=$dir/$name.gguf
    "$PFQC" init "$src" -o "$tmp/$name.json" 2>"$tmp/err" || fail "init $name"
    check "$tmp/$name.json" $recipes
done
echo "cuda_run: whole models on emulated threads give the reference's logits"
