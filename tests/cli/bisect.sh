#!/usr/bin/env bash
# --opt-bisect-limit and scripts/bisect find the pass that broke a model; a reproducer runs again what failed; where the time went
# is a tree and a trace.
. "$(dirname "$0")/common.bash"
command -v python3 >/dev/null || { echo "python3 is not installed"; exit 77; }
model=$root/samples/tinystories/model.json
for _ in $(seq 40); do echo "Once upon a time, there was a little girl named Lily. She loved to play outside."; done >"$tmp/text"

# Activations are taken to reach a thousand, so that four bits leave nothing of them: that pass is to blame.
passes="canonicalise,cse,fuse-norm,merge-linears,static-scales{a=4,max=1000},canonicalise,dce"
cat >"$tmp/check" <<SH
"$PFQC" ppl "$model" "$tmp/text" --passes "$passes" -c 64 --chunks 2 >"$tmp/ppl" || exit 125
awk '{ exit !(\$2 < 800) }' "$tmp/ppl"
SH
"$root/scripts/bisect" sh "$tmp/check" >"$tmp/found" 2>"$tmp/err" || fail "bisect"
grep -qx 'pass 5, static-scales, is the first with which it is bad' "$tmp/found" || fail "bisect says $(cat "$tmp/found")"
status=0
"$root/scripts/bisect" true >"$tmp/found" 2>"$tmp/err" || status=$?
[ $status -eq 2 ] || fail "bisect without passes"

# What kernels need is run behind the limit too: a program comes out.
"$PFQC" "$model" --recipe w8a8-dynamic --opt-bisect-limit 0 --stop-after memory >"$tmp/ir" 2>"$tmp/err" || fail "limit 0"
grep -q 'step 1 "embed' "$tmp/ir" && grep -q 'fuse (needed)' "$tmp/err" && grep -q 'cse (skipped)' "$tmp/err" || fail "limit 0 does not run what kernels need"

# A reproducer: the module in front of the pass that failed, and the rest of the pipeline; from the folder where pfqc ran.
cd "$tmp"
cp -r "$root/samples/tinystories" m
status=0
"$PFQC" m/model.json --passes 'cse,quantize-weights{group=4096,sym},fuse' --reproducer r.pfir --stop-after fuse >/dev/null 2>"$tmp/err" || status=$?
[ $status -eq 1 ] && sed -n 3p r.pfir | grep -qx '// pipeline: quantize-weights{bits=4,group=4096,sym},fuse' || fail "the reproducer of a failure: $(head -n 3 r.pfir)"
grep 'error\[' "$tmp/err" >"$tmp/first"
"$PFQC" opt r.pfir --run-reproducer >/dev/null 2>"$tmp/err" && fail "the reproducer does not fail"
grep 'error\[' "$tmp/err" | cmp - "$tmp/first" || fail "the reproducer fails otherwise"
# Of what does not fail: all of it, the same result.
"$PFQC" m/model.json --passes 'cse,fuse-norm,quantize-weights{bits=4,group=32},phases,lower,dce,fuse,layout,memory' --reproducer r.pfir --stop-after memory >a.pfir 2>"$tmp/err" || fail "a compile with a reproducer"
"$PFQC" opt r.pfir --run-reproducer -o b.pfir 2>"$tmp/err" && cmp a.pfir b.pfir || fail "the reproducer makes another module"
"$PFQC" opt a.pfir --run-reproducer >/dev/null 2>"$tmp/err" && fail "a module that is no reproducer"
grep -q 'error\[E0401\]: this is not a reproducer' "$tmp/err" || fail "no reproducer"

# Where the time went.
"$PFQC" opt a.pfir --passes cse,dce --time-passes --time-trace t.json -o c.pfir 2>"$tmp/err" || "$PFQC" opt r.pfir --passes cse,dce --time-passes --time-trace t.json -o c.pfir 2>"$tmp/err" || fail "time"
grep -Eq '^ +[0-9.]+ ms 100.0 %  opt$' "$tmp/err" && grep -Eq '%    passes$' "$tmp/err" && grep -Eq '%      cse +[0-9]+ changes, [0-9]+ ops$' "$tmp/err" || fail "no tree"
python3 - t.json <<'PY' >"$tmp/err" 2>&1 || fail "the trace"
import json, sys
events = {e["name"]: e for e in json.load(open(sys.argv[1]))["traceEvents"]}
assert {"opt", "passes", "cse", "dce"} <= set(events), events
for inner, outer in [("cse", "passes"), ("dce", "passes"), ("passes", "opt")]:
    x, y = events[inner], events[outer]
    assert x["ph"] == "X" and y["ts"] <= x["ts"] and x["ts"] + x["dur"] <= y["ts"] + y["dur"] + 0.2, (x, y)
PY
echo "bisect: the pass to blame is found, a reproducer fails as the first run did, the time is told"
