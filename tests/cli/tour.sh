#!/usr/bin/env bash
# docs/tour.md is what scripts/tour writes. It is of SmolLM2, whose checkpoint is not here: what the script writes of a model that is here is
# compared to the letter, and docs/tour.md in all but numbers and names; with PFQC_SMOLLM2=FILE.gguf docs/tour.md itself.
. "$(dirname "$0")/common.bash"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
cd "$root"
scripts/tour samples/tinystories/model.json >"$tmp/page" 2>"$tmp/err" || fail "scripts/tour"
cmp "$tmp/page" tests/data/tour.md >"$tmp/err" 2>&1 ||
    { diff "$tmp/page" tests/data/tour.md >"$tmp/err"; fail "scripts/tour samples/tinystories/model.json > tests/data/tour.md, and docs/tour.md again too"; }
shape() { # names, numbers and code of another model aside
    sed -n '/^ /d; s/`[^`]*`/_/g; s/[0-9][0-9.e+-]*/0/g; s/of [a-z0-9]*, 0 x/of _, 0 x/; s/as [a-z0-9_]* at/as _ at/; p' "$1"
}
diff <(shape tests/data/tour.md) <(shape docs/tour.md) >"$tmp/err" || fail "docs/tour.md is older than scripts/tour"
if [ -n "${PFQC_SMOLLM2:-}" ]; then
    mkdir -p "$tmp/samples/smollm2"
    cp samples/smollm2/model.json "$tmp/samples/smollm2" && ln -s "$PFQC_SMOLLM2" "$tmp/samples/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    (cd "$tmp" && "$root/scripts/tour" samples/smollm2/model.json) >"$tmp/page" 2>"$tmp/err" || fail "scripts/tour of SmolLM2"
    diff "$tmp/page" docs/tour.md >"$tmp/err" || fail "docs/tour.md is not what scripts/tour writes"
fi
echo "tour: every dump and number of the page is what pfqc makes"
