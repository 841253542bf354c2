#!/usr/bin/env bash
# The tinystories sample, compiled exactly (recipe float), reproduces its float64 reference: ids, logits, text, likelihoods.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"$PFQC" "$here/../../samples/tinystories/model.json" --recipe float -o "$tmp/out" --dump-dir "$tmp/ir" 2>"$tmp/err" || { cat "$tmp/err"; exit 1; }
python3 "$here/tinystories.py" "$tmp/out/tinystories" "$here/../data/tinystories/golden.json" "$tmp"/ir/*-memory.pfir
