#!/usr/bin/env bash
# The tinystories sample behind clients from PyPI, in PFQC_CLIENTS (scripts/test --full installs them in build/clients/): openai, lm-eval.
. "$(dirname "$0")/../cli/common.bash"
clients=${PFQC_CLIENTS:-$root/build/clients}
[ -d "$clients/openai" ] && [ -d "$clients/lm_eval" ] || { echo "openai and lm-eval are not in $clients"; exit 77; }
"$PFQC" "$root/samples/tinystories/model.json" --recipe float -o "$tmp/out" 2>"$tmp/err" || fail "tinystories does not compile"
PYTHONPATH=$clients python3 "$root/tests/server/clients.py" "$tmp/out/tinystories" "$root/tests/data/tasks" "$tmp"
