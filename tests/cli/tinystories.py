"""The compiled sample against its float64 reference: tinystories.py PROGRAM GOLDEN DUMP (the module that became code)."""
import json
import math
import re
import subprocess
import sys
import tempfile

program, golden = sys.argv[1], json.load(open(sys.argv[2]))


def run(*args):
    return subprocess.run([program, *args], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()


def near(what, got, want, tolerance):
    worst = max(abs(a - b) for a, b in zip(got, want, strict=True))
    assert worst <= tolerance, f"{what}: off by {worst:.3g}, {tolerance} is allowed"
    print(f"{what}: largest difference {worst:.2g} of {tolerance}")


def ids(values):
    return ",".join(map(str, values))


assert run("tokenize", golden["prompt"]).split() == [str(i) for i in golden["prompt_ids"]]
for threads in ["1", "2", "3"]:
    top = json.loads(run("logits", "--tokens", ids(golden["prompt_ids"]), "--top", "10", "-t", threads))["top"]
    want = golden["top10_logits_after_prompt"]
    assert [t[0] for t in top] == [w[0] for w in want]
    near(f"top logits, {threads} threads", [t[1] for t in top], [w[1] for w in want], 1e-4)

text = run("run", "-p", golden["prompt"], "-t", "2")
assert golden["prompt"] + text.rstrip("\n") == golden["greedy_text"].rstrip("\n"), text
print("greedy text: equal,", len(golden["greedy_ids"]), "tokens")

nll = []
seq = golden["nll_ids"]
for i, row in enumerate(json.loads(run("logits", "--tokens", ids(seq), "--all"))["logits"][:-1]):
    top = max(row)
    nll.append(top + math.log(sum(math.exp(v - top) for v in row)) - row[seq[i + 1]])
near("likelihood of each token", nll, golden["nll_per_token"], 2e-4)
near("mean likelihood", [sum(nll) / len(nll)], [golden["nll_mean"]], 1e-5)

# The same text through `ppl`: chunks of 64, the first token of each not scored.
with tempfile.NamedTemporaryFile("wb", suffix=".txt") as f:
    f.write(run("detokenize", ids(seq[1:])).encode().removesuffix(b"\n"))
    f.flush()
    tokens = [int(i) for i in run("tokenize", open(f.name).read()).split()]
    tokens = tokens[tokens[0] == 1:]
    rows = []
    for k in range(len(tokens) // 64):
        chunk = tokens[64 * k : 64 * k + 64]
        for i, row in enumerate(json.loads(run("logits", "--tokens", ids(chunk), "--all"))["logits"][:-1]):
            top = max(row)
            rows.append(top + math.log(sum(math.exp(v - top) for v in row)) - row[chunk[i + 1]])
    word, ppl, _, _, _, n = run("ppl", f.name, "-c", "64").split()
    assert word == "ppl" and int(n) == len(rows)
    near("ppl", [float(ppl) / math.exp(sum(rows) / len(rows))], [1], 1e-5)

# A trace names the ops of every call as the last dump does, every op of a phase once a pass.
functions = dict(re.findall(r"^func @(\w+)\(.*?\n(.*?)^}", open(sys.argv[3]).read(), re.M | re.S))
with tempfile.NamedTemporaryFile("r") as f:
    run("run", "-p", golden["prompt"], "-n", "3", "-t", "2", "--trace", f.name)
    events = [e for e in json.load(open(f.name))["traceEvents"] if "call" in e.get("args", {})]
for phase, passes in [("prefill", 1), ("logits", 1), ("decode", 2)]:
    ops = re.findall(r"^    (?:(%\S+(?:, %\S+)*) = |(\w+) )", functions[phase], re.M)
    want = " ".join(a.replace(",", "") or b for a, b in ops).split()
    for thread in 0, 1:
        calls = [e for e in events if e["cat"] == phase and e["tid"] == thread]
        got = sorted(" ".join(e["args"]["ops"] for e in calls).replace(",", "").split())
        if thread == 0 or phase != "decode":  # decoding may go on with one thread
            assert got == sorted(passes * want), (phase, thread, got, want)
print("trace:", len(events), "calls, ops as in the dump")
