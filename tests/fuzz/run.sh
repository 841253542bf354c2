#!/bin/sh
# usage: run.sh HARNESS SEEDS...   Fuzzes for PFQC_FUZZ_SECONDS (10). New inputs go to a folder beside the harness that
# later runs continue from; a find is left there too, as HARNESS.found-*.
set -eu
harness=$1
shift
mkdir -p "$harness.corpus"
exec "$harness" -max_total_time="${PFQC_FUZZ_SECONDS:-10}" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
    -print_final_stats=1 -verbosity=1 -artifact_prefix="$harness.found-" "$harness.corpus" "$@"
