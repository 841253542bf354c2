"""Compares a compiled program with a golden.json of tests/data/arch: logits within 1e-4, greedy ids equal."""
import json
import subprocess
import sys

program, golden_path, case = sys.argv[1:4]
golden = json.load(open(golden_path))
prompt, greedy, margins = golden["tokens"], golden["greedy"], golden["margins"]


def logits(tokens, *options):
    text = ",".join(map(str, tokens))
    out = subprocess.run([program, "logits", "--all", "--tokens", text, *options], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)["logits"]


worst = 0.0
for options in ([], ["--decode"], ["--threads", "1"]):
    rows = logits(prompt + greedy, *options)
    for position, expected in golden["rows"].items():
        worst = max(worst, max(abs(a - b) for a, b in zip(rows[int(position)], expected, strict=True)))
    for i, (token, margin) in enumerate(zip(greedy, margins, strict=True)):
        row = rows[len(prompt) - 1 + i]
        best = max(range(len(row)), key=row.__getitem__)
        if best != token:
            sys.exit(f"{case} {options}: greedy token {i} is {best}, expected {token} (margin {margin:g})")
if not worst <= 1e-4:
    sys.exit(f"{case}: a logit is off by {worst:g}")
print(f"{case}: largest difference {worst:.1e}, {len(greedy)} greedy ids equal")
