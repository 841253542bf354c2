#!/usr/bin/env bash
# The pages of docs/ that are made from tables are what the tables say.
set -eu
bad=0
for page in ops errors passes pfqc program requests; do
    if ! "$PFQC" doc $page | cmp -s - docs/$page.md; then
        echo "docs/$page.md differs: pfqc doc $page > docs/$page.md"
        bad=1
    fi
done
exit $bad
