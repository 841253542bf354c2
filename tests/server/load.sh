#!/usr/bin/env bash
# The tinystories sample under load: every answer equals the one given alone (load.py). For a minute; PFQC_TEST_FULL=1: for 5.
. "$(dirname "$0")/../cli/common.bash"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
"$PFQC" "$root/samples/tinystories/model.json" --recipe float -o "$tmp/out" 2>"$tmp/err" || fail "tinystories does not compile"
python3 "$root/tests/server/load.py" "$tmp/out/tinystories" --seconds 60 ${PFQC_TEST_FULL:+--full}
