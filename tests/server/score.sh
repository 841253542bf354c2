#!/usr/bin/env bash
# Log-probabilities of prompts over HTTP are those of `eval`, of a float and of a quantised model with a prefix; and many at once
# have the texts that each has alone.
. "$(dirname "$0")/../cli/common.bash"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
for recipe in float prefixquant-w4a4kv4-dynamic; do
    "$PFQC" "$root/samples/tinystories/model.json" --recipe $recipe -o "$tmp/$recipe" 2>"$tmp/err" || fail "tinystories does not compile: $recipe"
    python3 "$root/tests/server/score.py" "$tmp/$recipe/tinystories" "$root/tests/data/tasks" "$tmp" || fail "$recipe"
done
