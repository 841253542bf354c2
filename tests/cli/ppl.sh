#!/usr/bin/env bash
# `pfqc ppl` says what the compiled program's `ppl` says, float and quantised; refuses in a sentence.
. "$(dirname "$0")/common.bash"
sample=$root/samples/tinystories/model.json
text=$root/frontend/text/shakespeare.txt
near() { # two result lines, relative difference allowed
    awk -v a="$1" -v b="$2" -v tol="$3" 'BEGIN {
        split(a, x, " "); split(b, y, " ")
        d = x[2] / y[2] - 1; e = x[4] / y[4] - 1
        exit !(x[1] == "ppl" && x[6] == y[6] && d * d < tol * tol && e * e < 4 * tol * tol) }'
}

for recipe in float:0.00002 bf16:0.001 w8a8-dynamic:0.003 w4a16:0.002; do
    tol=${recipe#*:} recipe=${recipe%:*}
    "$PFQC" "$sample" --recipe $recipe -o "$tmp/$recipe" >"$tmp/err" 2>&1 || fail "compile $recipe"
    there=$("$tmp/$recipe/tinystories" ppl "$text" -c 128 --chunks 6 2>"$tmp/err" | tail -n 1) || fail "ppl of the program"
    here=$("$PFQC" ppl "$sample" "$text" --recipe $recipe -c 128 --chunks 6 2>"$tmp/err") || fail "ppl of pfqc"
    near "$here" "$there" $tol || fail "recipe $recipe: '$here', the program says '$there'"
    alone=$("$PFQC" ppl "$sample" "$text" --recipe $recipe -c 128 --chunks 6 --threads 1 2>"$tmp/err")
    [ "$alone" = "$here" ] || fail "one thread: '$alone', two '$here'"
done

# Calibrated recipes: roundings that fall the other way cascade through 4-bit layers, so the program's perplexity is only near.
cp -r "$(dirname "$sample")" "$tmp/cal"
sed -i 's#^{#{ "calibration": {"samples": 8, "length": 128},#' "$tmp/cal/model.json"
for recipe in prefixquant-w4a4kv4 prefixquant-w4a8kv4-dynamic prefixquant-w8a8kv8 quarot-w4a4kv4; do
    calibrated() { "$PFQC" "$@" --recipe $recipe --cache "$tmp/cache" --prefix 3,1; }
    calibrated "$tmp/cal/model.json" -o "$tmp/out" >"$tmp/err" 2>&1 || fail "compile $recipe"
    there=$("$tmp/out/tinystories" ppl "$text" -c 128 --chunks 6 2>"$tmp/err" | tail -n 1) || fail "ppl of the program"
    here=$(calibrated ppl "$tmp/cal/model.json" "$text" -c 128 --chunks 6 2>"$tmp/err") || fail "ppl of pfqc"
    near "$here" "$there" 0.005 || fail "recipe $recipe: '$here', the program says '$there'"
    "$tmp/out/tinystories" self-test >"$tmp/err" 2>&1 || fail "self-test of $recipe"
    "$tmp/out/tinystories" info >"$tmp/err" && grep -q "^recipe: $recipe" "$tmp/err" || fail "info of $recipe"
done

"$PFQC" ppl "$sample" "$text" --recipe w4a16 --against float -c 128 --chunks 2 >"$tmp/err" 2>&1 || fail "--against"
grep -qE '^against float: kl 0\.0[0-9]+ top1 0\.[789]' "$tmp/err" && tail -n 1 "$tmp/err" | grep -q '^ppl ' || fail "--against"

# A program's own logits beside the evaluator's.
"$tmp/w4a16/tinystories" ppl "$text" -c 128 --chunks 2 --save-logits "$tmp/w4a16.logits" >"$tmp/err" 2>&1 || fail "--save-logits"
[ "$(stat -c %s "$tmp/w4a16.logits")" = $((4 * 2 * 127 * 2048)) ] && [ ! -e "$tmp/w4a16.logits.part" ] || fail "size of the logits"
# The distance of two programs is that of their recipes.
against=$("$PFQC" ppl "$sample" "$text" --recipe w4a16 --against float -c 128 --chunks 2 2>"$tmp/err" | head -n 1) || fail "--against"
there=$("$tmp/w4a16/tinystories" kld --base "$tmp/float" "$text" -c 128 --chunks 2 2>"$tmp/err" | tail -n 1) || fail "kld"
awk -v a="$against" -v b="$there" 'BEGIN {
    split(a, x, " "); split(b, y, " ")
    d = x[4] / y[2] - 1
    exit !(y[1] == "kl" && y[12] == 254 && d * d < 1e-4 && (x[6] - y[8]) ^ 2 < 1e-4) }' ||
    fail "kld: '$there', the evaluator says '$against'"
"$PFQC" ppl "$sample" "$text" --recipe w4a16 --against "$tmp/w4a16.logits" -c 128 --chunks 2 >"$tmp/err" 2>&1 || fail "--against logits"
grep -qE '^against .*w4a16.logits: kl 0\.0000[0-9]+ top1 (1\.0000|0\.99)' "$tmp/err" || fail "the program is far from the evaluator"
"$tmp/w4a16/tinystories" ppl "$text" -c 128 --chunks 2 --save-logits "$tmp/no/such" >"$tmp/err" 2>&1 && fail "logits into no folder"
grep -q "cannot write" "$tmp/err" || fail "no sentence about the logits' file"

refused() { # pattern, arguments
    local want=$1
    shift
    if "$PFQC" ppl "$@" >"$tmp/err" 2>&1; then fail "not refused: $*"; fi
    grep -q -- "$want" "$tmp/err" || fail "no sentence like '$want' for: $*"
}
head -c 100 "$text" >"$tmp/short"
refused 'fewer than one chunk' "$sample" "$tmp/short" --recipe float
refused 'do not fit the model' "$sample" "$text" --recipe float -c 100000
refused 'takes a model.json and a text' "$sample"
refused 'expected fast or full' "$sample" "$text" --recipe float --effort best
refused 'must be those of the program' "$sample" "$text" --recipe float -c 128 --chunks 3 --against "$tmp/w4a16.logits"
refused 'E0701' "$sample" "$tmp/none" --recipe float
