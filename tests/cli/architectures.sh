#!/usr/bin/env bash
# Tiny checkpoints of every architecture, compiled exactly (recipe float), reproduce transformers' float64 logits and greedy
# ids: in one prefill, and token by token. Without PFQC_TEST_FULL one checkpoint per feature.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
data=$here/../data/arch
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cases="llama-bias llama-linear llama-llama3 mistral-window qwen2-window qwen3 phi3-partial gguf-llama"
[ -z "${PFQC_TEST_FULL:-}" ] || cases=$(cd "$data" && ls -d -- */ | tr -d /)
for c in $cases; do
    checkpoint=$data/$c
    [ ! -e "$checkpoint/$c.gguf" ] || checkpoint=$checkpoint/$c.gguf
    "$PFQC" init "$checkpoint" -o "$tmp/$c.json" --name m 2>"$tmp/err" || { cat "$tmp/err"; exit 1; }
    "$PFQC" "$tmp/$c.json" --recipe float -o "$tmp/$c" 2>"$tmp/err" || { cat "$tmp/err"; exit 1; }
    python3 "$here/architectures.py" "$tmp/$c/m" "$data/$c/golden.json" "$c"
done
