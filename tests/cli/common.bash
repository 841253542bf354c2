# What command-line tests begin with: $root of the sources, $PFQC from any folder, $tmp that goes away, fail.
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
case $PFQC in /*) ;; *) PFQC=$PWD/$PFQC ;; esac
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
fail() { # the last command's messages are in $tmp/err
    echo "FAILED: $*"
    cat "$tmp/err" 2>/dev/null || true
    exit 1
}
