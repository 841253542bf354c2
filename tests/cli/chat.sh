#!/usr/bin/env bash
# A chat template from model.json to the program: refused with a caret, left out, compiled and used; prompts are exact.
. tests/cli/common.bash
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
sample=$root/samples/tinystories
model() { # value of "chat_template" -> $tmp/model.json, whose files are the sample's
    python3 - "$sample" "$tmp/model.json" "$1" <<'PY'
import json, sys
sample, out, value = sys.argv[1:]
m = json.load(open(sample + "/model.json"))
m["weights"] = [f"{sample}/{w}" for w in m["weights"]]
m["tokenizer"] = f"{sample}/{m['tokenizer']}"
m["chat_template"] = json.loads(value)
json.dump(m, open(out, "w"))
PY
}
printf 'line one\n{{ messages | first2 }}\n' >"$tmp/bad.jinja"
model '"bad.jinja"'
! "$PFQC" "$tmp/model.json" --check 2>"$tmp/err" || fail "a bad template was accepted"
grep -qF "bad.jinja:2:15: error[E0304]: the filter 'first2' is not supported" "$tmp/err" || fail "no place"
grep -qF '    |               ^~~~~~' "$tmp/err" || fail "no caret"
grep -qF "did you mean 'first'?" "$tmp/err" || fail "no hint"
printf '{{ messages' >"$tmp/bad.jinja"
! "$PFQC" "$tmp/model.json" --check 2>"$tmp/err" || fail "an unfinished template was accepted"
grep -qF 'bad.jinja:1:1: error[E0303]' "$tmp/err" || fail "no E0303"
model 'true'
! "$PFQC" "$tmp/model.json" --check 2>"$tmp/err" || fail '"chat_template": true was accepted'
grep -qF 'expected the path of a file, or false' "$tmp/err" || fail "no sentence"
model 'false'
"$PFQC" "$tmp/model.json" --check 2>"$tmp/err" || fail '"chat_template": false'

# The template writes the BOS that `run` puts in front of its prompt, so that both see the same tokens.
printf '{{ bos_token }}{%% for m in messages %%}{{ m.content | trim }}{%% endfor %%}' >"$tmp/good.jinja"
model '"good.jinja"'
"$PFQC" "$tmp/model.json" --recipe float -o "$tmp/out" 2>"$tmp/err" || fail "compile"
program=$tmp/out/tinystories
"$program" info 2>"$tmp/err" | grep -qx 'chat templates: default' || fail "info does not name the template"
printf '[{"role": "user", "content": " Caf\\u00e9 "}]' >"$tmp/talk.json"
bos=$("$program" prompt "$tmp/talk.json" 2>"$tmp/err") || fail "prompt"
[ "${bos%Café}" != "$bos" ] && [ "$bos" != "Café" ] || fail "the prompt is '$bos'"
text="Once upon a time there was a little dog."
printf '%s\n' "$text" | "$program" chat -n 20 >"$tmp/chat" 2>"$tmp/err" || fail "chat"
"$program" run -p "$text" -n 20 >"$tmp/run" 2>"$tmp/err" || fail "run"
[ "$(cat "$tmp/chat")" = "$(sed 's/^ //' "$tmp/run")" ] && [ -s "$tmp/chat" ] ||
    fail "chat says '$(cat "$tmp/chat")', run '$(cat "$tmp/run")'"
