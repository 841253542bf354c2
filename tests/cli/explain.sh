#!/usr/bin/env bash
# Each error code has a long form, and a command that is refused with it.
. "$(dirname "$0")/common.bash"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
python3 "$root/tests/cli/explain.py" "$root/ir/base/errors.def" "$root/samples/tinystories" "$tmp" >"$tmp/err" 2>&1 || fail "codes"
status=0
"$PFQC" explain E9999 2>"$tmp/err" || status=$?
[ $status -eq 2 ] && grep -q 'error\[E0703\]: explain takes one error code' "$tmp/err" || fail "a code that there is not"
echo "explain: each code is provoked and explained"
