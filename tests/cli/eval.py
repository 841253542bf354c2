"""`eval` against lm-eval's rules over the program's own `tokenize` and `logits`: eval.py PROGRAM TASK..."""
import functools
import json
import math
import subprocess
import sys
import tempfile

program = sys.argv[1]


def run(*args):
    return subprocess.run([program, *args], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()


@functools.lru_cache(None)
def encode(text):
    return [int(i) for i in run("tokenize", "--", text).split()]


def loglik(context, continuation):
    """lm-eval: white space moves over, both are encoded together, the context alone says where the continuation begins."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    before, whole = encode(context), encode(context + continuation)
    if len(whole) <= len(before):  # one token holds the end of the context and the continuation
        before = before[:next(i for i, id in enumerate(whole) if id != before[i])]
    ids = before + whole[len(before):]
    rows = json.loads(run("logits", "--all", "--tokens", ",".join(map(str, ids))))["logits"]
    total, greedy = 0.0, True
    for i in range(len(before), len(ids)):
        row = rows[i - 1]
        top = max(row)
        total += row[ids[i]] - top - math.log(sum(math.exp(v - top) for v in row))
        greedy &= row.index(top) == ids[i]
    return total, greedy


def requests(doc):
    if "choices" in doc:
        return [(doc["query"].rstrip() + "\nAnswer:", " " + c) for c in doc["choices"]]
    return [(c, " " + doc["continuation"]) for c in doc.get("context_options") or [doc["context"]]]


def mean(values):
    return sum(values) / len(values)


for path in sys.argv[2:]:
    docs = [json.loads(line) for line in open(path, encoding="utf-8")]
    with tempfile.NamedTemporaryFile() as log:
        *_, last = run("eval", path, "--log-samples", log.name).splitlines()
        logged = [json.loads(line) for line in open(log.name)]
    scores = [[loglik(*q) for q in requests(doc)] for doc in docs]
    for line, score in zip(logged, scores, strict=True):
        for got, (ll, greedy) in zip(line["requests"], score, strict=True):
            assert abs(got["loglik"] - ll) <= 2e-4 and got["greedy"] == greedy, (path, line["example"], got, ll, greedy)
    if "context" in docs[0]:
        want = "acc %.4f ppl %.2f n %d" % (mean([s[0][1] for s in scores]), math.exp(-mean([s[0][0] for s in scores])), len(docs))
    else:
        def accuracy(length):
            values = [[s[0] / length(doc, k) for k, s in enumerate(score)] for doc, score in zip(docs, scores)]
            return mean([v.index(max(v)) == doc["gold"] for v, doc in zip(values, docs)])

        want = "acc %.4f acc_norm %.4f n %d" % (accuracy(lambda doc, k: 1),
                                                accuracy(lambda doc, k: len(doc["choices"][k]) if "choices" in doc else 1), len(docs))
    assert last == want, (path, last, want)
    print(path.rsplit("/", 1)[-1] + ":", last)
