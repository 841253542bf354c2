"""`eval` of the toy model against a scorer of its own: test_eval.py BUILD_DIR. Tokens and scores as lm-eval has them."""
import json
import math
import os
import tempfile
import unittest

import test_cli as cli

LONGEST = cli.CONTEXT + 1  # tokens of a request: the last one is no input


def encode(context, continuation, special=False):
    """lm-eval's TemplateLM.loglikelihood and _encode_pair, for a tokenizer of bytes that adds no BOS."""
    def ids(text):
        out, raw = [], text.encode()
        while raw:
            word = next((w for w in (b"<s>", b"</s>", b"<|x|>") if special and raw.startswith(w)), raw[:1])
            out.append({b"<s>": 256, b"</s>": 257, b"<|x|>": 258}.get(word, word[0]))
            raw = raw[len(word):]
        return out

    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    if not context:
        rest = ids(continuation)
        return (rest[:1], rest[1:]) if rest[0] == cli.BOS else ([cli.BOS], rest)
    return ids(context), ids(context + continuation)[len(ids(context)):]


def score(context, continuation, prefix=None):
    """Log-likelihood, all greedy, tokens."""
    ids, first = context + continuation, len(context)
    cut = max(0, len(ids) - LONGEST)
    ids, first = ids[cut:], first - cut
    if first > 1 and ids[0] == prefix:
        ids, first = ids[1:], first - 1
    total, greedy = 0.0, True
    for i in range(first, len(ids)):
        row = cli.logit_row(ids[:i])
        top = max(row)
        total += row[ids[i]] - top - math.log(sum(math.exp(v - top) for v in row))
        greedy &= row.index(top) == ids[i]
    return total, greedy, ids[:first], ids[first:]


def requests(doc, delimiter=None):
    if "choices" in doc:
        return [(doc["query"].rstrip() + (delimiter or "\nAnswer: "), c) for c in doc["choices"]]
    if "context_options" in doc:
        return [(c + (delimiter or " "), doc["continuation"]) for c in doc["context_options"]]
    return [(doc["context"] + (delimiter or " "), doc["continuation"])]


def mean_se(values):
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1) / len(values))


def number(v):
    return f"{v:.2f}" if v < 1e6 else f"{v:.4e}"


def evaluate(docs, delimiter=None, special=False, prefix=None):
    """What `eval` prints, and per request what --log-samples writes."""
    samples = [[score(*encode(*q, special), prefix) for q in requests(d, delimiter)] for d in docs]
    if "context" in docs[0]:
        acc, acc_se = mean_se([float(s[0][1]) for s in samples])
        ll, ll_se = mean_se([s[0][0] for s in samples])
        ppl = math.exp(-ll)
        return f"stderr acc {acc_se:.4f} ppl {number(ppl * ll_se)}\nacc {acc:.4f} ppl {number(ppl)} n {len(docs)}\n", samples
    right, norm = [], []
    for d, s in zip(docs, samples):
        texts = d.get("choices") or [d["continuation"]] * len(s)
        lls = [x[0] for x in s]
        lens = [x[0] / len(t) for x, t in zip(s, texts)]
        right.append(float(lls.index(max(lls)) == d["gold"]))
        norm.append(float(lens.index(max(lens)) == d["gold"]))
    (acc, acc_se), (acc_norm, norm_se) = mean_se(right), mean_se(norm)
    return f"stderr acc {acc_se:.4f} acc_norm {norm_se:.4f}\nacc {acc:.4f} acc_norm {acc_norm:.4f} n {len(docs)}\n", samples


WORDS = ["a", "cat", "the mat", "dormouse", "d\u00e9j\u00e0 vu", "\U0001f600 ok", "it sat", "so", "x"]
QUERIES = [{"query": "Q: who %d?%s" % (i * i, " \n" * (i % 3)), "choices": [WORDS[(i + k * (1 + i % 2)) % 9] for k in range(2 + i % 4)],
            "gold": i % 2, "id": [i, {"more": None}]} for i in range(12)]
OPTIONS = [{"context_options": ["so %s" % WORDS[i % 9], "so %s%s" % (WORDS[(i + 3) % 9], " " * (i % 2))],
            "continuation": "went " + WORDS[i // 2], "gold": i % 2} for i in range(9)]
CLOZE = [{"context": "we saw %s E" % WORDS[i % 9], "continuation": w} for i, w in enumerate(["\u00e9", "it", "\u00e9\u00e9", "\u00e8"])]


class Eval(cli.Base):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.dir.name, "task.jsonl")

    def tearDown(self):
        self.dir.cleanup()

    def write(self, docs, end="\n"):
        with open(self.path, "w", newline="") as f:
            f.write("".join((d if isinstance(d, str) else json.dumps(d, ensure_ascii=len(end) > 1)) + end for d in docs))

    def check(self, docs, *args, exe=cli.EXE, **kw):
        want, samples = evaluate(docs, **kw)
        log = self.path + ".log"
        for threads in ["1", "3"]:
            self.assertEqual(self.ok("eval", self.path, *args, "-t", threads, "--log-samples", log, exe=exe), want)
            with open(log) as f:
                lines = [json.loads(line) for line in f]
            self.assertEqual([x["example"] for x in lines], list(range(len(docs))))
            self.assertEqual([x["gold"] for x in lines], [d.get("gold", 0) for d in docs])
            for line, sample in zip(lines, samples):
                for got, (ll, greedy, context, continuation) in zip(line["requests"], sample, strict=True):
                    self.assertEqual([got["context"], got["continuation"], got["greedy"]], [context, continuation, greedy])
                    self.assertAlmostEqual(got["loglik"], ll, delta=1e-6 * abs(ll))
        self.assertFalse(os.path.exists(log + ".part"))

    def test_three_shapes(self):
        for docs in [QUERIES, OPTIONS, CLOZE]:
            self.write(docs)
            self.check(docs)
            for n in [1, 3, len(docs), 1000]:
                self.check(docs[:n], "--limit", str(n))

    def test_lines(self):
        """Blank lines, ends of lines as on Windows, escapes, no end of the last line."""
        self.write(["", " \t"] + QUERIES[:3] + [""] + QUERIES[3:], end="\r\n")
        self.check(QUERIES)
        with open(self.path, "w") as f:
            f.write("\n\n" + json.dumps(QUERIES[0]))
        self.check(QUERIES[:1])

    def test_delimiter(self):
        self.write(QUERIES)
        for text in [" ", " A:", "\n", "\u2003\u00a0", "\x1f>"]:
            self.check(QUERIES, "--delimiter", text, delimiter=text)

    def test_one_token_choices_share_their_logits(self):
        docs = [{"query": "pick", "choices": list("abcdefgh"), "gold": i} for i in range(8)]
        self.write(docs)
        self.check(docs, "--delimiter", "=", delimiter="=")

    def test_special_tokens(self):
        docs = [{"context": "<s>so<|x|>", "continuation": "</s>"}, {"context": "", "continuation": "ab"},
                {"context": " \t", "continuation": "<s>ab"}]
        self.write(docs)
        self.check(docs)
        self.check(docs, "--special", special=True)
        exe = os.path.join(cli.HERE, "fake_prefix")  # whose prefix is BOS: a context's own falls away
        docs = [{"context": "<s>so", "continuation": "on"}, {"context": "<s>", "continuation": "on"}]
        self.write(docs)
        self.check(docs, "--special", special=True, exe=exe, prefix=cli.BOS)

    def test_long_contexts_lose_their_beginning(self):
        docs = [{"query": "y" * n, "choices": ["abc", "d" * 50], "gold": 0} for n in (3, 51, 52, 80, 300)]
        self.write(docs)
        r = cli.run("eval", self.path)
        self.assertIn(b"fake_model: 6 contexts do not fit the 64 tokens of the model: their ends are used\n", r.stderr)
        self.assertEqual(r.stdout.decode(), evaluate(docs)[0])

    def test_context_option(self):
        self.write([{"query": "y" * 40, "choices": ["abc", "d"], "gold": 0}])
        self.assertNotIn(b"do not fit", cli.run("eval", self.path).stderr)
        self.assertIn(b"2 contexts do not fit the 20 tokens", cli.run("eval", self.path, "-c", "20").stderr)
        self.assertIn("has 4 tokens, the context only 3", self.fails(1, "eval", self.path, "-c", "3"))

    def test_bad_tasks(self):
        good = json.dumps(QUERIES[0])
        ask = '{"query": "q", "choices": %s, "gold": %s}'
        for line, message in [
                ("{", ":2:2: expected a name in quotes, found the end"),
                ('{"query": "q" "choices"', ":2:15: expected ',' or '}', found '\"'"),
                ("[" * 65, ":2:65: values nested deeper than 64"),
                ("[" + "1," * 4096 + "1]", "more than 4096 values"),
                ('"\xff"', ":2:2: expected UTF-8, found byte 0xff"),
                ("[]", ":2: an array, expected an object"),
                ("{}", ":2: expected one of {query, choices, gold}"),
                ('{"query": "q", "choices": ["a", "b"]}', "expected one of"),
                ('{"query": 1}', '"query" is an integer, expected a string'),
                ('{"gold": 0, "gold": 1}', '"gold" is given twice'),
                (ask % ('["a", "b"]', "2"), '"gold" is 2, expected 0 to 1'),
                (ask % ('["a", "b"]', "-1"), '"gold" is -1'),
                (ask % ('["a", "b"]', "1.0"), '"gold" is a number, expected an integer'),
                (ask % ('["a"]', "0"), "1 choices, expected 2 to 256"),
                (ask % (json.dumps(["a"] * 257), "0"), "257 choices"),
                (ask % ('["a", null]', "0"), "choice 1 is null, expected a string"),
                (ask % ('["a", ""]', "0"), "a continuation is empty"),
                (ask % (json.dumps(["a", "b" * 90]), "0"), "the continuation has 91 tokens, the context only 64"),
                ('{"context": "a", "continuation": "b"}', "an example without choices, those before it are with"),
                ('{"context": "' + "a" * (5 << 20) + '"}', "a line of 52428"),
        ]:
            with open(self.path, "wb") as f:
                f.write(good.encode() + b"\n" + line.encode("latin-1") + b"\n")
            error = self.fails(1, "eval", self.path)
            self.assertIn(message, error)
            self.assertIn(self.path + ":2", error)
            self.ok("eval", self.path, "--limit", "1")
        self.write([])
        self.assertIn("has no examples", self.fails(1, "eval", self.path))
        self.assertIn("regular file", self.fails(1, "eval", "/dev/null"))
        self.fails(2, "eval")
        self.fails(2, "eval", self.path, "--limit", "0")
        self.write([{"context": "aN", "continuation": "b"}])
        self.assertIn("not finite in example 1", self.fails(1, "eval", self.path))
        self.write(CLOZE)
        self.assertIn("cannot write '/dev/full'", run_message("eval", self.path, "--log-samples", "/dev/full"))
        self.assertIn("No such file", run_message("eval", self.path, "--log-samples", self.dir.name + "/no/x"))


def run_message(*args):
    r = cli.run(*args)
    assert r.returncode == 1, r
    return r.stderr.decode()


if __name__ == "__main__":
    unittest.main(verbosity=1)
