#!/usr/bin/env bash
# What calibrating passes leave behind: results that are found again and give the same bytes, from model.json and from a
# .pfir; damage is noticed; too short a text is refused.
. "$(dirname "$0")/common.bash"
sample=$root/samples/tinystories
passes='canonicalise,merge-linears,weights{bits=4,method=gptq}'
cp -r "$sample" "$tmp/few" # what few sequences find is as good here
sed -i 's/^{/{ "calibration": {"samples": 8, "length": 128},/' "$tmp/few/model.json"
model=$tmp/few/model.json
run() { "$PFQC" "$model" --passes "$passes" --stop-after weights --cache "$tmp/cache" "$@" 2>"$tmp/err"; }
files() { find "$tmp/cache" -type f | wc -l; }

# 1. The first run computes, the second finds; another effort, text or option is another result.
run >"$tmp/1.pfir" || fail "first run"
[ "$(files)" = 1 ] || fail "expected one file of results"
cp -r "$tmp/cache" "$tmp/kept"
run >"$tmp/2.pfir" || fail "second run"
cmp "$tmp/1.pfir" "$tmp/2.pfir" || fail "the second run gives another module"
diff -r "$tmp/cache" "$tmp/kept" || fail "the second run wrote results"
printf 'Too short.' >"$tmp/short"
run --calibration "$tmp/short" >"$tmp/3.pfir" && fail "a text of a few tokens was enough"
grep -q 'E0505.*the calibration text has' "$tmp/err" && grep -q 'hint:.*--calibration FILE' "$tmp/err" || fail "no sentence about a short text"
[ "$(files)" = 1 ] || fail "a failed run left a file"
head -c 20000 "$root/frontend/text/shakespeare.txt" >"$tmp/text"
model=$sample/model.json run --calibration "$tmp/text" --effort full >"$tmp/3.pfir" || fail "--effort full"
grep -q 'warning.*128 are wanted' "$tmp/err" || fail "no warning about a text too short for --effort full"
rm -r "$tmp/cache" && cp -r "$tmp/kept" "$tmp/cache"

# 2. A damaged file is computed again, to the same bytes.
results=$(find "$tmp/cache" -type f)
printf 'XX' | dd of="$results" bs=1 seek=3000 conv=notrunc 2>"$tmp/err"
run >"$tmp/4.pfir" || fail "run over a damaged file"
grep -q 'warning.*computed again' "$tmp/err" || fail "no warning about a damaged file"
cmp "$tmp/1.pfir" "$tmp/4.pfir" && diff -r "$tmp/cache" "$tmp/kept" || fail "computing again gives other results"

# 3. A .pfir has no tokenizer: random tokens, always the same.
cp -r "$sample" "$tmp/model"
"$PFQC" "$sample/model.json" --passes canonicalise --stop-after canonicalise >"$tmp/model/in.pfir" 2>"$tmp/err" || fail "dump"
for i in 1 2; do
    "$PFQC" opt "$tmp/model/in.pfir" --passes 'merge-linears,weights{bits=4,method=gptq}' --cache "$tmp/opt" -o "$tmp/opt$i.pfir" 2>"$tmp/err" ||
        fail "opt"
    grep -q 'random tokens' "$tmp/err" || fail "no warning about random tokens"
done
cmp "$tmp/opt1.pfir" "$tmp/opt2.pfir" || fail "opt gives another module the second time"

# 4. A folder that cannot be written is named, with what to do.
if "$PFQC" "$model" --passes "$passes" --stop-after weights --cache /dev/null/x >"$tmp/out" 2>"$tmp/err"; then fail "no folder"; fi
grep -q 'E0702' "$tmp/err" && grep -q -e '--cache DIR' "$tmp/err" || fail "no sentence about the folder"

# 5. Of synthetic weights nothing is measured: scales from "max", a prefix by its ids, with made-up keys and values.
mkdir "$tmp/synthetic"
sed -e 's#"weights": .*#"weights": {"synthetic": 1, "scale": 0.1},#; /"tokenizer"/d' \
    -e 's#^{#{ "calibration": {"max": 4, "prefix": [5, 6, 7]},#' "$sample/model.json" >"$tmp/synthetic/model.json"
for r in prefixquant-w4a8kv4 prefixquant-w4a4kv4-dynamic; do
    "$PFQC" "$tmp/synthetic/model.json" -r $r -o "$tmp/synthetic/out" --cache "$tmp/synthetic/cache" 2>"$tmp/err" || fail "synthetic, $r"
    grep -q 'nothing is measured, activations reach 4' "$tmp/err" || fail "it is not said that nothing is measured"
    "$tmp/synthetic/out/tinystories" info >"$tmp/info" && grep -qx 'prefix: 5 6 7' "$tmp/info" || fail "the prefix of model.json"
    "$tmp/synthetic/out/tinystories" self-test >"$tmp/err" 2>&1 || fail "self-test, $r"
done
[ ! -e "$tmp/synthetic/cache" ] || fail "something was measured of synthetic weights"
if "$PFQC" "$tmp/synthetic/model.json" -r prefixquant-w4a8kv4 --prefix 99999 -o "$tmp/x" 2>"$tmp/err"; then fail "a token that is none"; fi
grep -q "token 99999 of the prefix is not below" "$tmp/err" || fail "no sentence about the token"
cp "$sample"/* "$tmp/model" && sed -i 's#^{#{ "calibration": {"max": 4},#' "$tmp/model/model.json"
if "$PFQC" "$tmp/model/model.json" --check 2>"$tmp/err"; then fail "a magnitude for real weights"; fi
grep -q 'error.E0105.: "max" is for synthetic weights' "$tmp/err" || fail "no sentence about a magnitude for real weights"
