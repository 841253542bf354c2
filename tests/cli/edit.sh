# --set and --without change a recipe's passes; what they name must exist and be run by the recipe.
set -eu
model=samples/tinystories/model.json
bad=0
want() { # expected text, then options
    local text=$1
    shift
    "$PFQC" $model "$@" --stop-after quantize-weights >"$out/ir" 2>&1 || true
    grep -qF -- "$text" "$out/ir" || { echo "$*: no '$text' in"; tail -n 5 "$out/ir"; bad=1; }
}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
want 'u8[' -r w4a16 --set quantize-weights.bits=8,quantize-weights.group=16
want 's8[' -r w4a16 --set "quantize-weights.bits=8, quantize-weights.sym"
want "the recipe runs no pass 'rotate'" -r w4a16 --set rotate.seed=1
want "the recipe runs no pass 'fuse-norm'" -r w4a16 --without fuse-norm
want "there is no pass 'rotat'" -r w4a16 --without rotat
want "did you mean 'rotate'?" -r w4a16 --without rotat
want "pass quantize-weights has no option 'bit'" -r w4a16 --set quantize-weights.bit=8
want "option bits needs a value" -r w4a16 --set quantize-weights.bits
want "option bits is an integer, found 'four'" -r w4a16 --set quantize-weights.bits=four
want "expected PASS.OPTION=VALUE" -r w4a16 --set bits=4
want "expected ','" -r w4a16 --without "dce cse"
"$PFQC" $model -r w4a16 --without merge-linears --stop-after quantize-weights >"$out/ir"
! grep -q 'qkv' "$out/ir" || { echo "--without merge-linears merged"; bad=1; }
exit $bad
