"""`eval` and `kld` of the toy model against scorers of their own: test_eval.py BUILD_DIR. Tokens and scores as lm-eval has them."""
import array
import json
import math
import os
import random
import shutil
import subprocess
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


def log_sum_exp(row):
    return max(row) + math.log(sum(math.exp(v - max(row)) for v in row))


def percentile(values, share):
    at = share * (len(values) - 1)
    i = int(at)
    return values[i] + (at - i) * (values[min(i + 1, len(values) - 1)] - values[i])


class Kld(cli.Base):
    TEXT = bytes(32 + i * i % 61 for i in range(300)).replace(b"N", b"~")
    BASE = """#!/bin/sh
env | grep PFQC_ >%(dir)s/env
echo "$@" >>%(dir)s/args
[ "$1" = info ] && { printf 'x\\nvocabulary: 320\\n'; exit 0; }
%(then)s
"""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.text = self.file("text", self.TEXT)
        self.logits = self.dir.name + "/x.logits"

    def tearDown(self):
        self.dir.cleanup()

    def file(self, name, data, mode=0o644):
        path = os.path.join(self.dir.name, name)
        with open(path, "wb") as f:
            f.write(data)
        os.chmod(path, mode)
        return path

    def script(self, then):
        return self.file("base", (self.BASE % {"dir": self.dir.name, "then": then}).encode(), 0o755)

    def rows(self, c, chunks, bos=False):
        """Of scored tokens: this model's logits, the base's (others, by a fixed generator), the token."""
        rng = random.Random(c)
        for k in range(chunks):
            chunk = list(self.TEXT[k * c:k * c + c])
            for i in range(1, c):
                q = cli.logit_row([cli.BOS] * bos + chunk[:i])
                yield q, array.array("f", (v + rng.gauss(0, 0.7) for v in q)), chunk[i]

    def expect(self, c, chunks, bos=False):
        kl, nll, base, same, data = [], [], [], 0, b""
        for q, p, token in self.rows(c, chunks, bos):
            zq, zp = log_sum_exp(q), log_sum_exp(p)
            kl.append(sum(math.exp(b - zp) * ((b - zp) - (a - zq)) for a, b in zip(q, p)))
            nll.append(zq - q[token])
            base.append(zp - p[token])
            same += q.index(max(q)) == p.index(max(p))
            data += p.tobytes()
        with open(self.logits, "wb") as f:
            f.write(data)
        n, top1 = len(kl), same / len(kl)
        (m, se), (b, base_se), (d, diff_se), (mean, kl_se) = (mean_se(v) for v in (nll, base, [x - y for x, y in zip(nll, base)], kl))
        kl.sort()
        self.base_ppl = math.exp(b)
        return (f"ppl {math.exp(m):.4f} se {math.exp(m) * se:.4f} base {math.exp(b):.4f} se {math.exp(b) * base_se:.4f}\n"
                f"kl median {percentile(kl, .5):.6f} p90 {percentile(kl, .9):.6f} p99 {percentile(kl, .99):.6f}\n"
                f"stderr kl {kl_se:.6f} top1 {math.sqrt(top1 * (1 - top1) / (n - 1)):.4f} ratio {math.exp(d) * diff_se:.4f}\n"
                f"kl {mean:.6f} p99.9 {percentile(kl, .999):.6f} max {kl[-1]:.6f} top1 {top1:.4f} ratio {math.exp(d):.4f} tokens {n}\n")

    def test_by_hand(self):
        for c, chunks, bos in [(17, 17, False), (17, 3, True), (64, 2, False), (2, 9, False)]:
            want = self.expect(c, chunks, bos)
            args = ["kld", self.text, "-c", str(c), "--chunks", str(chunks)] + ["--bos"] * bos
            for threads in ["1", "3"]:
                self.assertEqual(self.ok(*args, "-t", threads, "--base", self.logits), want)
            line = f"ppl {self.base_ppl:.4f} se 0.1 tokens {chunks * (c - 1)}"
            base = self.script(f"cat {self.logits} >/dev/fd/3; echo noise; echo '{line}'")
            self.assertEqual(self.ok(*args, "--base", base), want)

    def test_itself(self):
        home = os.path.join(self.dir.name, "out")
        os.mkdir(home)
        shutil.copy(cli.EXE, home)
        shutil.copy(cli.EXE + ".weights", home)
        for base in [cli.EXE, home]:
            got = self.ok("kld", self.text, "-c", "17", "--base", base)
            self.assertTrue(got.endswith("kl 0.000000 p99.9 0.000000 max 0.000000 top1 1.0000 ratio 1.0000 tokens 272\n"), got)
        shutil.copy(cli.EXE, home + "/other")
        self.assertIn("has 2 programs, expected one", self.fails(1, "kld", self.text, "--base", home))

    def test_what_the_child_gets(self):
        self.expect(9, 4)
        base = self.script(f"cat {self.logits} >/dev/fd/3; echo ppl {self.base_ppl:.4f} se 1 tokens 32")
        self.ok("kld", self.text, "--base", base, "-t", "2", "--device", "cpu",
                env={"PFQC_CTX": "9", "PFQC_CHUNKS": "4", "PFQC_WEIGHTS": cli.EXE + ".weights"})
        with open(self.dir.name + "/env") as f:
            self.assertEqual(f.read(), "")
        with open(self.dir.name + "/args") as f:
            self.assertEqual(f.read(), f"info\nppl -c 9 --chunks 4 --save-logits /dev/fd/3 -t 2 --device cpu -- {self.text}\n")

    def test_bad_bases(self):
        self.expect(17, 17)
        args = ["kld", self.text, "-c", "17", "--base"]
        good = f"cat {self.logits} >/dev/fd/3"
        for then, message in [
                ("exit 3", "ended with status 3"), ("kill -9 $$", "was ended by signal 9"),
                ("echo first >&2; echo 'no such thing' >&2; exit 1", "the base failed: no such thing"),
                ("head -c 1000 " + self.logits + " >/dev/fd/3; exit 0", "end too early"),
                (good + "; exit 1", "ended with status 1"), (good, "the base's '' is not the"),
                (good + "; echo ppl 5.0 se 0 tokens 272", "is not the"),
                (good + f"; echo ppl {self.base_ppl:.4f} se 0 tokens 271", "its tokens are others"),
                (f"cat {self.logits} {self.logits} >/dev/fd/3", "go on: its tokens are others"),
                ("yes >/dev/fd/3", "go on: its tokens are others"),
                ("head -c 400000 /dev/zero | tr '\\0' '\\377' >/dev/fd/3", "the logits of the base are not finite in chunk 1")]:
            self.assertIn(message, self.fails(1, *args, self.script(then)), then)
        for info, message in [("echo vocabulary: 320", "names no vocabulary"), ("printf 'a\\nvocabulary: 321\\n'", "vocabulary of 321 tokens"),
                              ("exit 9", "status 9")]:
            self.assertIn(message, self.fails(1, *args, self.file("base", b"#!/bin/sh\n" + info.encode() + b"\n", 0o755)))
        self.assertIn("cannot start", self.fails(1, *args, self.file("base", b"#!/no/such\n", 0o755)))
        self.assertIn("has 3 bytes, but logits of these chunks 348160", self.fails(1, *args, self.file("x", b"abc")))
        self.assertIn("neither a program, nor its folder", self.fails(1, *args, "/dev/null"))
        self.assertIn("No such file", self.fails(1, *args, self.dir.name + "/none"))
        self.assertIn("has 0 programs", self.fails(1, *args, os.path.dirname(self.file("base", b""))))
        self.assertIn("needs a base", self.fails(2, "kld", self.text))
        self.fails(2, "kld", "--base", "x")


class SaveLogits(cli.Base):
    """Into a pipe, which keeps its name; read to its end, in part, or not at all."""

    def into_a_pipe(self, text, most):
        """(what was read of it, exit status, messages); most: bytes to read, -1 for all, None: nobody reads."""
        here, there = os.pipe()
        if most is None:
            os.close(here)
        with tempfile.TemporaryFile() as err:
            p = subprocess.Popen([cli.EXE, "ppl", text, "-c", "9", "--save-logits", f"/dev/fd/{there}"], pass_fds=[there],
                                 stdout=err, stderr=err, env=cli.CLEAN)
            os.close(there)
            data = b""
            if most is not None:
                with os.fdopen(here, "rb") as f:
                    data = f.read(most)
            status = p.wait(timeout=120)
            err.seek(0)
            return data, status, err.read().decode()

    def test_into_a_pipe(self):
        with tempfile.TemporaryDirectory() as d:
            text, saved = d + "/text", d + "/logits"
            with open(text, "wb") as f:
                f.write(Kld.TEXT)
            self.ok("ppl", text, "-c", "9", "--save-logits", saved)
            with open(saved, "rb") as f:
                want = f.read()
            self.assertGreater(len(want), 1 << 17)  # more than a pipe holds, so that its end is seen while writing
            data, status, messages = self.into_a_pipe(text, -1)
            self.assertEqual([status, data == want], [0, True], messages)
            for most in (None, 1000):
                _, status, messages = self.into_a_pipe(text, most)
                self.assertEqual(status, 1, messages)
                self.assertRegex(messages, "cannot write '/dev/fd/[0-9]+': Broken pipe")


def run_message(*args):
    r = cli.run(*args)
    assert r.returncode == 1, r
    return r.stderr.decode()


if __name__ == "__main__":
    unittest.main(verbosity=1)
