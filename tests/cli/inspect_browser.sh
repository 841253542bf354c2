#!/usr/bin/env bash
# The page of pfqc inspect as a browser shows it: wide, on a phone, in the dark, on paper.
. "$(dirname "$0")/common.bash"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
cp -r "$root/samples/tinystories" "$tmp/model"
sed -i 's/^{/{ "calibration": {"samples": 2, "length": 32, "prefix": [5, 1]},/' "$tmp/model/model.json"
PYTHONPATH=$root/tests/server python3 -c 'import sys, browser; sys.exit(not browser.find())' ||
    { echo "no Chromium is installed (Debian: chromium-headless-shell)"; exit 77; }
"$PFQC" "$tmp/model/model.json" --recipe prefixquant-w8a8kv8 --cache "$tmp/cache" -o "$tmp/out" 2>"$tmp/err" || fail "no program"
"$PFQC" inspect "$tmp/out" 2>"$tmp/err" || fail "no page"
PYTHONPATH=$root/tests/server python3 "$root/tests/cli/inspect_browser.py" "$tmp/out/inspect.html" >"$tmp/err" 2>&1 || fail "the page in a browser"
echo "inspect_browser: every chart is drawn and labelled, wide, on a phone, in the dark and on paper"
