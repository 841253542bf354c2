#!/usr/bin/env bash
# `eval` of the compiled sample equals a scorer that has only the program's own tokens and logits, on tasks of all shapes.
. "$(dirname "$0")/common.bash"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
"$PFQC" "$root/samples/tinystories/model.json" --recipe float -o "$tmp/out" 2>"$tmp/err" || fail "compile"
python3 "$root/tests/cli/eval.py" "$tmp/out/tinystories" "$root"/tests/data/tasks/*.jsonl
