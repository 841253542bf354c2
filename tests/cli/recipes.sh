# Every recipe on a tiny checkpoint of every architecture: each pass leaves a valid module of the right stage, exact
# passes keep the logits, and every op ends in a step that an epilogue or a fused kernel computes. Recipes that calibrate
# do so on a few tokens. PFQC_TEST_FULL=1 takes all checkpoints for them, else one of each kind of block.
set -eu
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fused='attend|embed|hadamard|linear|norm|quant|rows'
bad=0
check() { # name, recipe, options
    local name=$1 recipe=$2
    shift 2
    if ! "$PFQC" "$out/$name.json" --recipe $recipe --cache "$out/cache" --verify-each --stop-after memory "$@" >"$out/m.pfir" 2>"$out/err"; then
        echo "$name with $recipe:"
        cat "$out/err"
        bad=1
    elif grep -E '^  step' "$out/m.pfir" | grep -vE "\"($fused)[.\"]"; then
        echo "$name with $recipe: steps that are not fused"
        bad=1
    fi
}
for golden in tests/data/arch/*/golden.json; do
    dir=$(dirname "$golden")
    name=$(basename "$dir")
    src=$dir
    [ -f "$dir/$name.gguf" ] && src=$dir/$name.gguf
    "$PFQC" init "$src" -o "$out/$name.json" 2>"$out/err" || { cat "$out/err"; bad=1; continue; }
    for recipe in float bf16 w4a16 w8a8-dynamic; do check $name $recipe --verify-numerics; done
    case ${PFQC_TEST_FULL:-}$name in
    1*|llama-bias|mistral-window|phi3-partial|qwen3) ;;
    *) continue ;;
    esac
    sed -i 's/^{/{ "calibration": {"samples": 2, "length": 32},/' "$out/$name.json"
    case $name in
    llama-llama3 | qwen3-v5) without_r3="--set rotate.skip=r3" ;; # heads of 12 and 10 columns, which R3 cannot take
    *) without_r3= ;;
    esac
    for f in passes/recipes/*.json; do
        recipe=$(basename "$f" .json)
        grep -q '"weights{' "$f" || continue
        check $name $recipe $without_r3
        check $name $recipe $without_r3 --set weights.method=rtn
    done
done
exit $bad
