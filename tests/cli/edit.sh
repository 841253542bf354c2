# --set and --without change a recipe's passes; what they name must exist and be run by the recipe. --check refuses bad values.
set -eu
model=samples/tinystories/model.json
bad=0
stop="--stop-after quantize-weights"
want() { # expected text, then options
    local text=$1
    shift
    "$PFQC" $model "$@" $stop >"$out/ir" 2>&1 || true
    grep -qF -- "$text" "$out/ir" || { echo "$*: no '$text' in"; tail -n 5 "$out/ir"; bad=1; }
}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
want 'u8[' -r w4a16 --set quantize-weights.bits=8,quantize-weights.group=16
want 's8[' -r w4a16 --set "quantize-weights.bits=8, quantize-weights.sym"
want 's8[' -r w4a16 --set quantize-weights.bits=8 --set quantize-weights.sym
want "the recipe runs no pass 'rotate'" -r w4a16 --set rotate.seed=1
want "the recipe runs no pass 'fuse-norm'" -r w4a16 --without fuse-norm
want "there is no pass 'rotat'" -r w4a16 --without rotat
want "did you mean 'rotate'?" -r w4a16 --without rotat
want "pass quantize-weights has no option 'bit'" -r w4a16 --set quantize-weights.bit=8
want "option bits needs a value" -r w4a16 --set quantize-weights.bits
want "option bits is 4 or 8, found 'four'" -r w4a16 --set quantize-weights.bits=four
want "expected PASS.OPTION=VALUE" -r w4a16 --set bits=4
want "expected ','" -r w4a16 --without "dce cse"
# What no pass would take is refused before any of them runs, so by --check too.
stop=--check
want "--set:1:17: error[E0501]: option a is 4, 8 or 16, found '5'" -r prefixquant-w4a4kv4 --set static-scales.a=5
want "option drift is 0 to 1, found '2'" -r prefixquant-w4a4kv4 --set weights.damp=1,weights.drift=2
want "option max is above 0, at most 1e30, found '0'" -r prefixquant-w4a4kv4 --set static-scales.max=0
want "option ids is none or 0 to 2147483647, found 'x'" -r prefixquant-w4a4kv4 --set prefix.ids=1+x
want "pass phases: rows is at most chunk" -r w4a16 --set phases.chunk=16
want "is valid" -r w4a16 --set phases.chunk=16,phases.rows=16
want "is valid" -r prefixquant-w4a4kv4 --set rotate.skip=r1+r4,weights.damp=1e-3,static-scales.max=0.5,prefix.ids=none
# So are a text and a prefix that no pass would take.
printf 'Too short.' >"$out/short"
want "the calibration text has 8 tokens, expected at least 32768" -r prefixquant-w4a4kv4 --calibration "$out/short"
want "the calibration text has 8 tokens, expected at least 32768" -r prefixquant-w4a4kv4 --calibration "$out/short" --prefix none
want "cannot read the file" -r prefixquant-w4a4kv4 --calibration "$out/none"
want "token 99999 of the prefix is not below the vocabulary's 2048" -r prefixquant-w4a4kv4 --prefix 99999
want "the prefix has more than 256 tokens" -r prefixquant-w4a4kv4 --prefix "$(seq -s, 1 300)"
want "is valid" -r prefixquant-w4a4kv4 --calibration "$out/short" --prefix 5 --set static-scales.max=3
want "is valid" -r w4a16 --calibration "$out/none"
"$PFQC" $model -r w4a16 --without merge-linears --stop-after quantize-weights >"$out/ir"
! grep -q 'qkv' "$out/ir" || { echo "--without merge-linears merged"; bad=1; }
exit $bad
