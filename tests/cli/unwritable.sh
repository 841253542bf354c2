#!/usr/bin/env bash
# An output that cannot be written is one diagnostic, and nothing of it stays behind.
. "$(dirname "$0")/common.bash"
model=$root/samples/tinystories/model.json
refused() { # what, expected text; the command's status is in $status
    [ $status -eq 1 ] || fail "$1 ended with status $status"
    grep -qF "error[E0702]: cannot write$2" "$tmp/err" || fail "$1 said something else"
    [ "$(grep -c 'error\[' "$tmp/err")" -eq 1 ] || fail "$1: more than one error"
}

# A file beyond the limit of its size, a page that is longer than what is buffered.
for trap in "" "trap '' XFSZ"; do
    status=0
    (eval "$trap" && ulimit -f 20 && "$PFQC" inspect "$model" -o "$tmp/page.html") 2>"$tmp/err" || status=$?
    refused "a full disk" ": File too large"
    ! ls "$tmp"/page.html* >/dev/null 2>&1 || fail "left $(ls "$tmp")"
done

# Standard output, of every command that prints there.
[ -c /dev/full ] || { echo "there is no /dev/full"; exit 77; }
"$PFQC" "$model" --recipe float --stop-after dce >"$tmp/in.pfir" 2>"$tmp/err" || fail "no .pfir"
while read -r words; do
    status=0
    # shellcheck disable=SC2086 # words
    "$PFQC" $words >/dev/full 2>"$tmp/err" || status=$?
    refused "$words" ""
    grep -q '^stdout: ' "$tmp/err" || fail "$words does not name stdout"
done <<EOF
--help
--version
doc ops
doc errors
doc pfqc
explain E0105
man
completion bash
inspect $model --format text
inspect $model --format json
inspect $model --format dot
opt $tmp/in.pfir
$model --recipe float --stop-after dce
EOF
echo "unwritable: one diagnostic, no file"
