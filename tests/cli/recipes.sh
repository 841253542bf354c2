# Every recipe on a tiny checkpoint of every architecture: each pass leaves a valid module of the right stage, exact
# passes keep the logits, and every op ends in a step that an epilogue or a fused kernel computes.
set -eu
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fused='attend|embed|linear|norm|quant|rows'
bad=0
for golden in tests/data/arch/*/golden.json; do
    dir=$(dirname "$golden")
    name=$(basename "$dir")
    src=$dir
    [ -f "$dir/$name.gguf" ] && src=$dir/$name.gguf
    "$PFQC" init "$src" -o "$out/$name.json" 2>"$out/err" || { cat "$out/err"; bad=1; continue; }
    for recipe in float w4a16 w8a8-dynamic; do
        if ! "$PFQC" "$out/$name.json" --recipe $recipe --verify-each --verify-numerics --stop-after memory >"$out/m.pfir" 2>"$out/err"; then
            echo "$name with $recipe:"
            cat "$out/err"
            bad=1
        elif grep -E '^  step' "$out/m.pfir" | grep -vE "\"($fused)[.\"]"; then
            echo "$name with $recipe: steps that are not fused"
            bad=1
        fi
    done
done
exit $bad
