#!/usr/bin/env bash
# Checks every #include "..." of the libraries against the matrix in ARCHITECTURE.md.
set -eu
cd "$(dirname "$0")/../.."
bad=0
check() { # folder, then a regular expression of allowed targets
    local line
    while IFS= read -r line; do
        [ -n "$line" ] || continue
        echo "not allowed: $line"
        bad=1
    done < <(grep -rnE '^#include "' "$1" --include='*.c' --include='*.h' --include='*.inc' | grep -E '"[a-z_]+/' | grep -vE "#include \"($2)" || true)
}
check ir 'ir/'
check frontend 'frontend/|ir/|runtime/(tokenizer|template|unicode)\.h"|runtime/template\.def"'
check passes 'passes/|ir/|runtime/(tokenizer|sample)\.h"'
check codegen 'codegen/|ir/|runtime/(abi|image)\.h"'
check inspect 'inspect/|ir/'
check runtime 'runtime/'
[ $bad -eq 0 ] && echo "include matrix holds"
exit $bad
