#!/usr/bin/env bash
# docs/ops.md, docs/errors.md and docs/passes.md are what the tables say.
set -eu
bad=0
for page in ops errors passes; do
    if ! "$PFQC" doc $page | cmp -s - docs/$page.md; then
        echo "docs/$page.md differs: pfqc doc $page > docs/$page.md"
        bad=1
    fi
done
exit $bad
