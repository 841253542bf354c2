#!/usr/bin/env bash
# pfqc inspect: a page that is whole, needs nothing else and says what plan.json does; a plan that is not one is refused.
. "$(dirname "$0")/common.bash"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
cp -r "$root/samples/tinystories" "$tmp/model"
sed -i 's/^{/{ "calibration": {"samples": 2, "length": 32, "prefix": [5, 1]},/' "$tmp/model/model.json"
out=$tmp/out
"$PFQC" "$tmp/model/model.json" --recipe prefixquant-w8a8kv8 --cache "$tmp/cache" -o "$out" 2>"$tmp/err" || fail "no program"
"$PFQC" inspect "$out" >"$tmp/stdout" 2>"$tmp/err" || fail "no page"
[ ! -s "$tmp/stdout" ] && grep -q "wrote $out/inspect.html" "$tmp/err" || fail "inspect does not say what it wrote"
python3 "$root/tests/cli/inspect_page.py" "$out" >"$tmp/err" 2>&1 || fail "the page"

# The same from the plan alone, elsewhere; the same bytes.
"$PFQC" inspect "$out/plan.json" -o "$tmp/page.html" 2>"$tmp/err" && cmp "$out/inspect.html" "$tmp/page.html" || fail "another page of the same plan"

# Other forms, of all that can be asked.
form() { # what, form: into $tmp/form
    "$PFQC" inspect "$1" --format "$2" >"$tmp/form" 2>"$tmp/err" || fail "$2 of $1"
}
for what in "$out" "$out/plan.json" "$out/model.pfir" "$tmp/model/model.json" "$tmp/model" "$tmp/model/model.safetensors"; do
    form "$what" json
    python3 "$root/tests/cli/inspect_forms.py" json "$what" <"$tmp/form" >"$tmp/err" 2>&1 || fail "JSON of $what"
    form "$what" dot
    python3 "$root/tests/cli/inspect_forms.py" dot "$what" <"$tmp/form" >"$tmp/err" 2>&1 || fail "DOT of $what"
    ! command -v dot >/dev/null || dot -Tsvg "$tmp/form" >/dev/null 2>"$tmp/err" || fail "graphviz refuses the DOT of $what"
    form "$what" text
    grep -q '^@\(main\|decode\): [0-9]* kernels' "$tmp/form" && ! grep -q "$(printf '\033')" "$tmp/form" || fail "text of $what"
    "$PFQC" inspect "$what" -o "$tmp/some.html" 2>"$tmp/err" && grep -q '<svg class="diagram"' "$tmp/some.html" || fail "page of $what"
done
form "$out" text
grep -q '^fuse-norm  *11  *0  *16' "$tmp/form" && grep -Eq 'in  %n1.0.q : s8\[1,128\], scale [0-9.]+, of 2$' "$tmp/form" || fail "text does not tell passes and scales"
grep -Eq '^keys in the cache  *s8$' "$tmp/form" && grep -Eq '^down-in  *scale [0-9.e-]+ to [0-9.e-]+$' "$tmp/form" || fail "text does not tell types and scales by layer"
python3 - "$tmp/form" "$out/plan.json" >"$tmp/err" 2>&1 <<'EOF' || fail "text does not tell tokens and kernels"
import json, re, sys
text, plan = open(sys.argv[1]).read(), json.load(open(sys.argv[2]))
for layer in range(2):
    for when in ["before", "after"]:
        ratio, token, _, _ = plan["outlier_tokens"][f"{when}.{layer}"][0]
        assert f'{ratio:.3g} ' + json.dumps(plan["token_text"][str(token)], ensure_ascii=False) in re.search(f"^{layer}  .*$", text, re.M).group(), (layer, when)
for k in plan["kernels"]:
    calls = sum(c["kernel"] == k["name"] for c in plan["phases"]["decode"]["calls"])
    assert not calls or re.search(rf"^{re.escape(k['name'])} +{calls} +[0-9.]+ k?B +[0-9.]+$", text, re.M), k
EOF
form "$tmp/model" text
grep -Eq '^mlp.down_proj  *f32$' "$tmp/form" || fail "text does not tell types by layer before there are phases"
grep -Eq '^mlp.down_proj  *2  *393 kB  f32 \[128,384\]$' "$tmp/form" || fail "text does not tell how tensors are stored"
status=0
"$PFQC" inspect "$out" --format xml >"$tmp/stdout" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] && grep -q "'xml', expected html, text, json or dot" "$tmp/err" || fail "an unknown form"

# A timeline of the program puts the times of its kernels beside what the machine needs.
timed_page() { # what, options of bench
    "$out/tinystories" bench -n 8 -r 1 --trace "$tmp/trace.json" ${@:2} >"$tmp/stdout" 2>"$tmp/err" || fail "no timeline, $1"
    "$PFQC" inspect "$out" --trace "$tmp/trace.json" -o "$tmp/out/timed.html" 2>"$tmp/err" || fail "no page with times, $1"
    python3 - "$tmp/out/timed.html" "$tmp/trace.json" "$out/plan.json" >"$tmp/err" 2>&1 <<'EOF' || fail "the page with times, $1"
import json, re, statistics, sys
page, trace, plan = open(sys.argv[1]).read(), json.load(open(sys.argv[2]))["traceEvents"], json.load(open(sys.argv[3]))
assert any(e["name"] == "plain_read" and e["args"]["gb_s"] > 0 for e in trace), "no plain read"
phases = {name: phase["calls"] for name, phase in plan["phases"].items()}
decode = {("decode", c["step"]): c["step"] for c in phases["decode"]}
for c in phases["prefill"]: decode["prefill", c["step"]] = c["step"]
for c, d in zip(phases["logits"][1:], phases["decode"][-len(phases["logits"]) + 1:]): decode["logits", c["step"]] = d["step"]
for name, calls in phases.items():
    for c in calls:
        same = [d for d in phases["decode"] if d["step"] == decode.get((name, c["step"]))]
        assert c["kernel"].startswith("rows_") or same[0]["kernel"] == c["kernel"], (name, c, same)
took = {}
for e in trace:
    if e["ph"] == "X" and e["cat"] in ["decode", "batch"] and "step" in e["args"]:
        step = decode.get((e["args"].get("phase", "decode"), e["args"]["step"]))
        took.setdefault(step, []).append(e["dur"])
for k in plan["kernels"]:
    us = sum(statistics.median_low(took[c["step"]]) for c in phases["decode"] if c["kernel"] == k["name"])
    row = re.search(f'<tr id="k-{k["name"]}">(.*?)</tr>', page).group(1)
    cells = re.findall(r'<td class="number">([^<]*)</td>', row)
    assert not us or cells[-2] == f"{us:.2f}" and re.fullmatch(r"\d+ %", cells[-1]), (k["name"], us, cells)
EOF
}
timed_page "a token" -p 0
grep -q '<p>A token behind [0-9]* others takes at least ' "$tmp/out/timed.html" || fail "the page of a token does not say how many were before"
timed_page "a batch behind a prompt" -p 9 -b 3
grep -q '<p>A token of each of 3 sequences, behind [0-9]* others, takes at least ' "$tmp/out/timed.html" || fail "the page of a batch does not say of how many"
"$PFQC" inspect "$out" --trace "$tmp/trace.json" --format text 2>"$tmp/err" | grep -q '^3 tokens  ' || fail "the text of a batch does not say of how many"
# A GPU that decodes a token by one kernel tells the time of no other.
echo '{"traceEvents": [{"ph": "X", "cat": "decode", "dur": 50, "args": {"rows": 1, "step": 1, "call": 0, "pos": 9}}]}' >"$tmp/t.json"
"$PFQC" inspect "$out" --trace "$tmp/t.json" -o "$tmp/some.html" 2>"$tmp/err" || fail "no page of a token as one kernel"
grep -q 'behind 10 others takes 50 microseconds as one kernel (' "$tmp/some.html" || fail "the page does not say what one kernel took"
! grep -q '<td class="number">50.00</td>' "$tmp/some.html" || fail "the time of a token is that of its first kernel"
echo '{"traceEvents": [{"ph": "X", "cat": "batch", "dur": 60, "args": {"rows": 4, "phase": "decode", "step": 1, "call": 1, "pos": 9}}]}' >"$tmp/t.json"
"$PFQC" inspect "$out" --trace "$tmp/t.json" -o "$tmp/some.html" 2>"$tmp/err" || fail "no page of four tokens as one kernel"
grep -q 'each of 4 sequences, behind 10 others, takes 60 microseconds as one kernel (' "$tmp/some.html" || fail "the page does not say what one kernel of four tokens took"
timed() { # code, text
    printf '%s' "$2" >"$tmp/t.json"
    local status=0
    "$PFQC" inspect "$out" --trace "$tmp/t.json" -o "$tmp/some.html" 2>"$tmp/err" || status=$?
    [ $status -eq 1 ] && grep -q "error\[$1\]" "$tmp/err" || fail "expected $1 of the timeline $2"
}
timed E0101 '{"traceEvents": ['
timed E0103 '{}'
timed E0105 '{"traceEvents": []}'
timed E0105 '{"traceEvents": [{"ph": "X", "cat": "batch", "dur": 1, "args": {"rows": 2, "phase": "x", "step": 1, "call": 0, "pos": 0}}, {"ph": "X", "cat": "batch", "dur": 1, "args": {"rows": 2, "phase": 7, "step": 1, "call": 0, "pos": 0}}]}'
timed E0105 '{"traceEvents": [7, {"ph": "X", "cat": "decode", "dur": -1, "args": {"rows": 1, "step": 1, "call": 0, "pos": 0}}, {"name": "plain_read", "args": 3}]}'

# Files beside plan.json that are none of ours are one diagnostic too.
beside() { # code, file, text
    rm -rf "$tmp/bad" && mkdir "$tmp/bad" && cp "$out/plan.json" "$tmp/bad"
    printf '%s' "$3" >"$tmp/bad/$2"
    local status=0
    "$PFQC" inspect "$tmp/bad" 2>"$tmp/err" || status=$?
    [ $status -eq 1 ] && grep -q "error\[$1\]" "$tmp/err" && [ ! -e "$tmp/bad/inspect.html" ] || fail "expected $1 of $2"
}
beside E0103 passes.json '{"changes": 1}'
beside E0105 passes.json '{"changes": 2, "passes": []}'
beside E0103 passes.json '{"changes": 1, "passes": [{"pass": "x"}]}'
beside E0105 passes.json '{"changes": 1, "passes": [{"pass": "x", "options": "", "stage": "", "changes": 0, "ops": 0, "inserted": 0, "removed": 0, "changed": 0, "left_out": 0, "edits": [{"in": "", "layers": "", "alike": 1, "inserted": 0, "removed": 0, "changed": 0, "left_out": 0, "lines": [""]}]}]}'
beside E0401 model.pfir 'pfir 9'

# A program for GPUs alone has no sources for CPUs to link to.
mkdir "$tmp/nvrtc"
cc -shared -fPIC -o "$tmp/nvrtc/libnvrtc.so.12" "$root/tests/cuda/stub_nvrtc.c"
export PFQC_NVRTC=$tmp/nvrtc PFQ_STUB_NVRTC=code
"$PFQC" "$tmp/model/model.json" --recipe prefixquant-w8a8kv8 --target cuda:sm_80 --cache "$tmp/cache" -o "$tmp/gpu" 2>"$tmp/err" || fail "no program for GPUs"
"$PFQC" inspect "$tmp/gpu" 2>"$tmp/err" || fail "no page of a program for GPUs"
python3 "$root/tests/cli/inspect_page.py" "$tmp/gpu" >"$tmp/err" 2>&1 || fail "the page of a program for GPUs"

# What is not a plan is one diagnostic and no page.
refused() { # code, text, plan
    local status=0
    rm -rf "$tmp/bad" && mkdir "$tmp/bad"
    [ -z "$3" ] || printf '%s' "$3" >"$tmp/bad/plan.json"
    "$PFQC" inspect "$tmp/bad" 2>"$tmp/err" || status=$?
    [ $status -eq 1 ] && grep -q "error\[$1\].*$2" "$tmp/err" || fail "expected $1 $2"
    [ ! -e "$tmp/bad/inspect.html" ] || fail "a page of a bad plan"
}
edit() { # Python over p: the plan, changed
    python3 -c 'import json, sys; p = json.load(open(sys.argv[1])); exec(sys.argv[2]); print(json.dumps(p))' "$out/plan.json" "$1"
}
refused E0701 'cannot read' ''
refused E0101 '' '{"plan": 1'
refused E0103 'phases' '{"plan": 1, "memory": {}, "weights": {}}'
refused E0105 '' "$(edit 'p["plan"] = 2')"
refused E0102 '' "$(edit 'p["model"] = 7')"
refused E0105 'a kernel that' "$(edit 'p["phases"]["decode"]["calls"][0]["kernel"] = "none"')"
refused E0105 'offset, bytes, type' "$(edit 'p["phases"]["decode"]["calls"][1]["in"] = [["act", 0]]')"
refused E0105 '2.53' "$(edit 'p["phases"]["decode"]["calls"][1]["in"] = [["act", -1, 0, "x"]]')"
refused E0105 '40 counts' "$(edit 'p["outlier_bins"] = {"before.0": [1]}')"
refused E0105 'a count' "$(edit 'p["outlier_bins"] = {"before.0": [-1] * 40}')"
refused E0105 'ratio, token, sequence, position' "$(edit 'p["outlier_tokens"]["before.0"] = [[1, 2]]')"
refused E0105 'a number or null' "$(edit 'p["sqnr"]["x.0"] = "far"')"
status=0
"$PFQC" inspect 2>"$tmp/err" || status=$?
[ $status -eq 2 ] && grep -q 'inspect takes one folder' "$tmp/err" || fail "inspect without a folder"

# Two compiles: what differs, and nothing else.
differ() { # Python over p, expected lines
    mkdir -p "$tmp/other" && edit "$1" >"$tmp/other/plan.json"
    "$PFQC" diff "$out" "$tmp/other" >"$tmp/diff" 2>"$tmp/err" || fail "diff: $1"
    printf "$2" | cmp - "$tmp/diff" || fail "diff of $1: $(cat "$tmp/diff")"
}
differ 'pass' 'no difference\n'
differ 'p["recipe"] = "a\x1b[2J"; p["prefix"] = []' 'recipe\n    - prefixquant-w8a8kv8\n    + a?[2J\nprefix\n    - 5,1\n    + none\n'
differ 'p["weights"]["bytes"] = 2000000; p["phases"]["decode"]["barriers"] = 99' \
    "$(python3 -c 'import json, sys
p = json.load(open(sys.argv[1])); d = p["phases"]["decode"]; n = len(d["calls"])
print("weights\\n    - %.0f kB\\n    + 2.0 MB\\ndecode\\n    - %d calls, %d barriers\\n    + %d calls, 99 barriers\\n" % (p["weights"]["bytes"] / 1e3, n, d["barriers"], n))' "$out/plan.json")"
differ 'p["passes"].append({"pass": "cse", "options": "", "changes": 3, "ops": 9}); p["sqnr"] = {k: v for k, v in p["sqnr"].items() if k[:2] != "k."}' \
    "$(python3 -c 'import json, sys
p = json.load(open(sys.argv[1])); k = [v for n, v in p["sqnr"].items() if n[:2] == "k."]
print("sqnr, dB, k\\n    - %.2f\\npass cse, %d\\n    +  (3 changes)\\n" % (sum(k) / len(k), 1 + sum(q["pass"] == "cse" for q in p["passes"])))' "$out/plan.json")"
"$PFQC" "$tmp/model/model.json" --recipe w8a8-dynamic --cache "$tmp/cache" -o "$tmp/dynamic" 2>"$tmp/err" || fail "no other program"
"$PFQC" diff "$out" "$tmp/dynamic" >"$tmp/diff" 2>"$tmp/err" || fail "diff of two recipes"
for what in recipe prefix weights 'type of keys in the cache' 'scale of down-in' 'sqnr, dB, k' 'kernel attend_s8_8x16' 'pass static-scales'; do
    grep -qx "$what" "$tmp/diff" || fail "diff of two recipes does not tell: $what"
done
status=0
"$PFQC" diff "$out" "$out/model.pfir" >"$tmp/stdout" 2>"$tmp/err" || status=$?
[ $status -eq 1 ] && grep -q 'E0703.*is no folder that pfqc wrote' "$tmp/err" || fail "diff with a module"
status=0
"$PFQC" diff "$out" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] && grep -q 'diff takes two folders' "$tmp/err" || fail "diff of one folder"
status=0
"$PFQC" diff "$out" "$tmp/none" >"$tmp/stdout" 2>"$tmp/err" || status=$?
[ $status -eq 1 ] && grep -q 'E0701' "$tmp/err" && [ ! -s "$tmp/stdout" ] || fail "diff with nothing"

# Names are text, never markup; numbers that nobody measured do no harm.
mkdir "$tmp/odd"
edit 'p["model"] = "<script>&\"\x27"
p["recipe"] = "</style><b>"
p["kernels"][0]["name"] = "\"><img src=x>"
for c in p["phases"].values():
    for k in c["calls"]: k["kernel"] = p["kernels"][0]["name"]
p["sqnr"] = {"a.0": 1e308, "b.1": -1e308, "c.2": None, "d.99999999999": 3, "e": 4, "": 5, "f.3": 1e-300}
p["outlier"] = {"x.0": 0, "y.0": -1, "z.1": 1e-320}
p["outlier_bins"] = {"before.0": [9007199254740992] * 40, "before.99999999": [1] * 40, "after.4095": [0] * 39 + [1], "x": [0] * 40}
p["outlier_tokens"] = {"before.0": [[None, 0, 0, 0], [1e300, 1, 2, 3], [1e9, 9, 0, 0], [1e-300, 5, 0, 0], [70, 6, 0, 1]]}
p["token_text"] = {"9": "<b>&\"\n\u2028" * 9, "6": 7}' >"$tmp/odd/plan.json"
"$PFQC" inspect "$tmp/odd" 2>"$tmp/err" || fail "odd names and numbers"
python3 "$root/tests/cli/inspect_page.py" "$tmp/odd" odd >"$tmp/err" 2>&1 || fail "the page of odd names"
echo "inspect: one page, whole and alone, as plan.json says"
