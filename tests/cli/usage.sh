#!/usr/bin/env bash
# Command lines that ask for what there is not are refused, with status 2, in the form that they ask for.
. "$(dirname "$0")/common.bash"
model=$root/samples/tinystories/model.json
refused() { # status, expected text, arguments
    local want=$1 text=$2 status=0
    shift 2
    "$PFQC" "$@" >"$tmp/stdout" 2>"$tmp/err" || status=$?
    [ $status -eq "$want" ] || fail "'$*' ended with status $status"
    grep -qF -- "$text" "$tmp/err" || fail "'$*' did not say $text"
    [ ! -s "$tmp/stdout" ] || fail "'$*' printed something"
}

# Every word is looked at.
refused 2 'junk1: error[E0703]: unexpected argument' "$model" junk1 junk2 --check
refused 2 'x: error[E0703]: unexpected argument' man x
refused 2 '5: error[E0703]: unexpected argument' opt 1 2 3 4 5

# --diagnostics is a form that there is, and holds for the whole command line.
refused 2 "--diagnostics: error[E0703]: 'xml', expected text or json" "$model" --check --diagnostics xml
refused 2 "'xml', expected text or json" --help --diagnostics=xml
for order in "--diagnostics json --bogus" "--bogus --diagnostics json" "1 2 3 4 5 --diagnostics json" "--diagnostics json --output"; do
    # shellcheck disable=SC2086 # words
    refused 2 '{"kind":"error","code":"E0703","where":"' opt $order
done
PFQC_DIAGNOSTICS=json refused 2 '{"kind":"error","code":"E0703","where":"--bogus"' --bogus
refused 2 '--bogus: error[E0703]: unknown option' --diagnostics text --bogus

# 64 targets, and one more, on the command line and in model.json.
some=$(printf 'cpu:x86-64-v3,%.0s' $(seq 63))
"$PFQC" "$model" --check -r float --target "${some}cpu" 2>"$tmp/err" || fail "64 targets"
refused 1 '--target: error[E0704]: more than 64 targets' "$model" --check -r float --target "${some}cpu,cpu"
cp -r "$root/samples/tinystories" "$tmp/model"
sed -i "s/\"targets\": \[\"cpu\"\]/\"targets\": [$(printf '"cpu",%.0s' $(seq 64))\"cpu\"]/" "$tmp/model/model.json"
refused 1 'targets: error[E0704]: more than 64 targets' "$tmp/model/model.json" --check -r float
echo "usage: every word of a command line counts"
