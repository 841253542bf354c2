"""Drives the toy model as a user would: test_cli.py BUILD_DIR. The model's rule is in fake_model.c."""
import json
import math
import os
import pty
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.abspath(sys.argv.pop(1))
EXE = os.path.join(HERE, "fake_model")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("PFQC_")}
VOCAB, CONTEXT, BOS, EOS = 320, 64, 256, 257
HOSTILE = ["", "-1", "0", "5x", "x", "nan", "inf", "1e400", "1.5", "0x10", " 1", "2147483648", "9223372036854775808",
           "18446744073709551616", "-9223372036854775809", "1,2"]


def run(*args, exe=EXE, env=None, **kw):
    kw.setdefault("timeout", 120)
    return subprocess.run([exe, *args], capture_output="stdout" not in kw, env={**CLEAN, **(env or {})}, **kw)


def logit_row(tokens):
    """Logits after the tokens, by the rule."""
    h = 7
    for t in tokens:
        h = (h * 31 + t + 1) % 2**32
    row = []
    for v in range(VOCAB):
        x = (h ^ v * 2654435761 % 2**32) * 2246822519 % 2**32
        row.append(((x ^ x >> 15) & 0xFFFF) / 8192 + (37 * v % 128) / 128)
    forced = {ord("E"): 0xC3, 0xC3: 0xA9, ord("H"): 0xE2, 0xA9: EOS, 0xE2: EOS}.get(tokens[-1])
    if forced is not None:
        row[forced] = 100.0
    return row


def greedy(tokens, n):
    out = []
    while len(out) < n:
        row = logit_row(tokens + out)
        best = row.index(max(row))
        if best == EOS:
            break
        out.append(best)
    return out


def text_of(tokens):
    raw = b"".join(bytes([t]) if t < 256 else b"" if t <= 258 else b"[%d]" % t for t in tokens)
    return raw.decode("utf-8", errors="replace")


class Base(unittest.TestCase):
    def ok(self, *args, **kw):
        r = run(*args, **kw)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout.decode()

    def fails(self, code, *args, **kw):
        """Exit code, one sentence on stderr, nothing else; returns the sentence."""
        r = run(*args, **kw)
        self.assertEqual(r.returncode, code, (args, r.stderr))
        if r.stdout is not None:
            self.assertEqual(r.stdout, b"", args)
        message = r.stderr.decode()
        self.assertEqual(message.count("\n"), 1, message)
        self.assertIn(": error: ", message)
        return message


class Commands(Base):
    # ---- run ----

    def test_greedy_is_the_rule(self):
        for prompt in ["a", "Hi there", "exactly8", "nine char", "x" * 41]:
            for threads in ["1", "2", "3", "7"]:
                got = self.ok("run", "-p", prompt, "-n", "12", "-t", threads)
                self.assertEqual(got, text_of(greedy(list(prompt.encode()), 12)) + "\n")

    def test_stops_at_end_and_joins_characters(self):
        self.assertEqual(self.ok("run", "-p", "E"), "\u00e9\n")
        self.assertEqual(self.ok("run", "-p", "H"), "\ufffd\n")

    def test_no_tokens_wanted(self):
        self.assertEqual(self.ok("run", "-p", "abc", "-n", "0"), "\n")

    def test_fills_the_context(self):
        r = run("run", "-p", "abd", "-c", "10")
        self.assertEqual(r.returncode, 0)
        self.assertEqual(r.stdout.decode(), text_of(greedy(list(b"abd"), 8)) + "\n")
        self.assertIn(b"context of 10 tokens is full", r.stderr)
        self.assertEqual(self.ok("run", "-p", "abc", "-c", "3", "-n", "1"), text_of(greedy(list(b"abc"), 1)) + "\n")

    def test_prompt_errors(self):
        self.assertIn("4 tokens, more than the context of 3", self.fails(1, "run", "-p", "abcd", "-c", "3"))
        self.assertIn("65 tokens, more than the context of 64", self.fails(1, "run", "-p", "x" * 65))
        self.assertIn("model has 64", self.fails(1, "run", "-p", "x", "-c", "65"))
        self.assertIn("not finite", self.fails(1, "run", "-p", "N"))
        self.assertIn("needs a prompt", self.fails(2, "run"))

    def test_empty_prompt_is_bos(self):
        self.assertEqual(self.ok("run", "-p", "", "-n", "5"), text_of(greedy([BOS], 5)) + "\n")

    def test_prompt_without_the_prefix_it_begins_with(self):
        """The model's prefix is BOS alone: a prompt's own BOS falls away, one further on stays."""
        exe = os.path.join(HERE, "fake_prefix")
        self.assertIn("prefix: 256\n", self.ok("info", exe=exe))
        self.assertIn("recipe: toy\nprefix: none\n", self.ok("info"))
        for prompt, seen in [("<s>ab", b"ab"), ("ab<s>", [97, 98, BOS]), ("<s><s>a", [BOS, 97]), ("<s>", [BOS]), ("", [BOS])]:
            self.assertEqual(self.ok("run", "-p", prompt, "--special", "-n", "6", exe=exe),
                             text_of(greedy(list(seen), 6)) + "\n", prompt)
        with tempfile.NamedTemporaryFile() as f:
            f.write(bytes(32 + i * i % 61 for i in range(300)).replace(b"N", b"~"))
            f.flush()
            self.assertEqual(self.ok("ppl", f.name, "-c", "64", "--bos", exe=exe), self.ok("ppl", f.name, "-c", "64"))

    def test_special_tokens_in_the_prompt(self):
        self.assertEqual(self.ok("run", "-p", "a<s>", "-n", "6", "--special"), text_of(greedy([97, BOS], 6)) + "\n")
        self.assertEqual(self.ok("run", "-p", "a<s>", "-n", "6"), text_of(greedy(list(b"a<s>"), 6)) + "\n")

    def test_sampling_repeats_with_its_seed(self):
        args = ["run", "-p", "abc", "-n", "20", "--temp", "1.5", "--top-k", "50"]
        texts = {self.ok(*args, "--seed", str(s), "-t", str(1 + s % 2)) for s in [1, 2, 3] for _ in range(2)}
        self.assertEqual(len(texts), 3)
        self.assertEqual(self.ok(*args, "--temp", "0"), self.ok("run", "-p", "abc", "-n", "20"))
        self.assertEqual(self.ok(*args, "--top-k", "1"), self.ok("run", "-p", "abc", "-n", "20"))

    def test_timing_line(self):
        self.assertRegex(run("run", "-p", "abc", "-n", "3").stderr.decode(),
                         r"^fake_model: load .* prompt 3 tokens, .* generated 3 tokens, .* tok/s; \d+ threads, fast\n$")

    # ---- logits ----

    def test_logits_are_the_rule(self):
        ids = [5, 300, 0, 319, 72, 69, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
        arg = ",".join(map(str, ids))
        got = json.loads(self.ok("logits", "--tokens", arg))
        self.assertEqual(got["tokens"], ids)
        for a, b in zip(got["logits"], logit_row(ids), strict=True):
            self.assertAlmostEqual(a, b, places=6)
        for threads in ["1", "5"]:
            rows = json.loads(self.ok("logits", "--tokens", arg, "--all", "-t", threads))["logits"]
            for i, row in enumerate(rows):
                for a, b in zip(row, logit_row(ids[: i + 1]), strict=True):
                    self.assertAlmostEqual(a, b, places=6)
            self.assertEqual(len(rows), len(ids))

    def test_top(self):
        row = logit_row([1, 2, 3])
        want = sorted(range(VOCAB), key=lambda v: (-row[v], v))
        for k in [1, 2, 17, 320, 100000]:
            top = json.loads(self.ok("logits", "--tokens", "1 2 3", "--top", str(k)))["top"]
            self.assertEqual([t[0] for t in top], want[:k])
        both = json.loads(self.ok("logits", "--tokens", "1,2,3", "--top", "2", "--all"))["top"]
        self.assertEqual([len(both), both[2][0][0]], [3, want[0]])

    def test_nan_is_null(self):
        self.assertEqual(set(json.loads(self.ok("logits", "--tokens", str(ord("N"))))["logits"]), {None})

    def test_bad_ids(self):
        for bad in ["-1", "320", "x", "1;2", "9223372036854775808", "1" * 40, "", " , "]:
            self.fails(1, "logits", "--tokens", bad)
        self.assertIn("0 to 319", self.fails(1, "detokenize", "1", "320"))
        self.fails(1, "logits", "--tokens", ",".join(["1"] * 65))
        self.fails(2, "logits")

    # ---- ppl ----

    def ppl(self, text, c, bos=False, chunks=None):
        nll = []
        ids = list(text)
        n = len(ids) // c
        for k in range(n if chunks is None else min(n, chunks)):
            chunk = ids[k * c : (k + 1) * c]
            for i in range(1, c):
                row = logit_row(([BOS] if bos else []) + chunk[:i])
                m = max(row)
                nll.append(m + math.log(sum(math.exp(v - m) for v in row)) - row[chunk[i]])
        mean = sum(nll) / len(nll)
        var = sum((v - mean) ** 2 for v in nll) / (len(nll) - 1)
        return math.exp(mean), math.exp(mean) * math.sqrt(var / len(nll)), len(nll)

    def test_ppl_by_hand(self):
        text = bytes(32 + i * i % 61 for i in range(300)).replace(b"N", b"~")
        with tempfile.NamedTemporaryFile() as f:
            f.write(text)
            f.flush()
            for c, bos, chunks in [(2, False, 9), (7, False, None), (8, True, None), (9, True, 3), (64, False, None)]:
                args = ["ppl", f.name, "-c", str(c)] + ["--bos"] * bos + (["--chunks", str(chunks)] if chunks else [])
                last = self.ok(*args).strip().split("\n")[-1]
                want = self.ppl(text, c, bos, chunks)
                self.assertEqual(last, "ppl %.4f se %.4f tokens %d" % want)
                self.assertEqual(self.ok(*args, "-t", "1").strip(), last)
            self.assertEqual(self.ok("ppl", f.name).strip(), "ppl %.4f se %.4f tokens %d" % self.ppl(text, 64))
            self.assertEqual(self.ok("ppl", f.name, "--bos").strip(),
                             "ppl %.4f se %.4f tokens %d" % self.ppl(text, 63, True))
            self.assertIn("BOS do not fit", self.fails(1, "ppl", f.name, "-c", "64", "--bos"))
            self.fails(1, "ppl", f.name, "-c", "65")

    def test_ppl_files(self):
        with tempfile.TemporaryDirectory() as d:
            os.mkfifo(d + "/fifo")
            for name, text in [("/short", "abc"), ("/empty", ""), ("/nan", "aN" * 50)]:
                with open(d + name, "w") as f:
                    f.write(text)
            for path, message in [("/fifo", "regular"), ("", "regular"), ("/short", "fewer than one chunk"),
                                  ("/empty", "0 tokens"), ("/none", "No such file"), ("/nan", "not finite")]:
                self.assertIn(message, self.fails(1, "ppl", d + path))
            self.fails(2, "ppl")
            self.fails(2, "ppl", "a", "b")

    # ---- bench ----

    def test_bench_json(self):
        args = ["bench", "-p", "20", "-n", "10", "-r", "3", "-t", "2", "-o", "json"]
        rows = json.loads(self.ok(*args))
        self.assertEqual([r["test"] for r in rows], ["pp20", "tg10"])
        for r in rows:
            self.assertEqual(r["threads"], 2)
            for key in ["tok_s", "stddev", "gb_s", "bw_pct", "read_gb_s"]:
                self.assertGreater(r[key], 0)
            self.assertEqual(len(r["samples_tok_s"]), 3)
            self.assertAlmostEqual(r["tok_s"], sum(r["samples_tok_s"]) / 3, delta=1e-6 * r["tok_s"])
            passes = 3 / 20 if r["test"] == "pp20" else 1
            self.assertAlmostEqual(r["gb_s"], r["tok_s"] * passes * 1280 / 1e9, delta=1e-6 * r["gb_s"])
        batch = json.loads(self.ok(*args, "-b", "3", "-d", "4"))
        self.assertEqual([(r["test"], r["batch"]) for r in batch], [("pp20 @ d4", 1), ("tg10 b3 @ d4", 3)])
        self.assertAlmostEqual(batch[1]["gb_s"], batch[1]["tok_s"] / 3 * 1280 / 1e9, delta=1e-6 * batch[1]["gb_s"])
        self.assertIn("up to 3 together", self.fails(1, *args, "-b", "4"))
        rows = json.loads(self.ok(*args, "-d", "30", "-p", "0"))
        self.assertEqual([r["test"] for r in rows], ["tg10 @ d30"])

    def test_bench_table(self):
        lines = self.ok("bench", "-p", "16", "-n", "4", "-r", "1").strip().split("\n")
        self.assertEqual(len(lines), 4)
        self.assertTrue(all(line.count("|") == 10 for line in lines), lines)
        self.fails(2, "bench", "-p", "0", "-n", "0")
        self.assertIn("94 tokens of context", self.fails(1, "bench", "-p", "64", "-n", "0", "-d", "30"))

    # ---- the rest ----

    def test_tokenize(self):
        self.assertEqual(self.ok("tokenize", "h\u00e9"), "104 195 169\n")
        self.assertEqual(self.ok("tokenize", ""), "\n")
        self.assertEqual(self.ok("tokenize", "--", "-x"), "45 120\n")
        self.assertEqual(self.ok("tokenize", "--special", "<s>"), "256\n")
        self.assertEqual(self.ok("detokenize", "104,195", "169"), "h\u00e9\n")
        self.assertEqual(self.ok("detokenize", "--special", "256"), "<s>\n")
        self.assertEqual(run("detokenize", "195").stdout, b"\xc3\n")

    def test_info(self):
        info = dict(line.split(": ", 1) for line in self.ok("info").strip().split("\n"))
        self.assertEqual([info["model"], info["recipe"], info["targets"]], ["fake_model", "toy", "never fast plain"])
        self.assertTrue(info["weights"].endswith("fake_model.weights"))

    def test_self_test(self):
        out = self.ok("self-test")
        self.assertTrue(out.endswith("self-test passed\n"))
        self.assertIn("plain decode: ok", out)
        r = run("self-test", env={"FAKE_WRONG_EXPECT": "1"})
        self.assertEqual(r.returncode, 1)
        self.assertIn(b"self-test failed", r.stderr)

    def test_variants(self):
        self.assertIn("cpu variant: plain", self.ok("info", "--cpu", "plain"))
        self.assertIn("cpu variant: plain", self.ok("info", env={"PFQC_CPU": "plain"}))
        self.assertIn("lacks unknown-40000000", self.fails(1, "run", "-p", "a", env={"PFQC_CPU": "never"}))
        self.assertIn("never, fast, plain", self.fails(1, "run", "-p", "a", "--cpu", "avx9"))

    def test_help(self):
        self.assertIn("usage:", self.ok("--help"))
        for cmd in ["run", "ppl", "kld", "eval", "bench", "logits", "tokenize", "detokenize", "info", "self-test", "man", "completion"]:
            self.assertIn("usage: fake_model " + cmd, self.ok(cmd, "--help"))


class Usage(Base):
    """Options, environment, broken outputs."""

    NUMBERS = {  # option -> (command, values of HOSTILE that are fine)
        "--predict": ("run -p x", {"0"}), "--temp": ("run -n 1 -p x", {"0", "1.5"}),
        "--top-k": ("run -n 1 -p x", {"0"}), "--top-p": ("run -n 1 -p x", {"0"}), "--min-p": ("run -n 1 -p x", {"0"}),
        "--seed": ("run -n 1 -p x", {"0", "2147483648"}), "--ctx": ("run -n 1 -p x", set()),
        "--threads": ("run -n 1 -p x", set()), "--cuda-device": ("run -n 1 -p x", {"0"}),
        "--chunks": ("ppl /dev/null", set()), "--limit": ("eval /dev/null", set()), "--n-prompt": ("bench -n 1 -r 1", {"0"}),
        "--n-gen": ("bench -p 1 -r 1", {"0"}), "--n-depth": ("bench -p 1 -n 0 -r 1", {"0"}),
        "--repetitions": ("bench -p 1 -n 0", set()), "--top": ("logits --tokens 1", set()),
    }

    def test_hostile_numbers(self):
        for option, (command, fine) in self.NUMBERS.items():
            for value in HOSTILE:
                env_name = "PFQC_" + option[2:].upper().replace("-", "_")
                for args, env in [([option, value], {}), ([f"{option}={value}"], {}), ([], {env_name: value})]:
                    if value in fine:
                        self.ok(*command.split(), *args, env=env)
                    else:
                        message = self.fails(2, *command.split(), *args, env=env)
                        self.assertIn(option if args else env_name, message)

    def test_usage_errors(self):
        for args in [[], ["nope"], ["run", "--nope"], ["run", "-x"], ["run", "-p"], ["run", "-p", "a", "--special=1"],
                     ["run", "-p", "a", "--device", "tpu"], ["bench", "-o", "xml"], ["bench", "-o", ""], ["run", "a"],
                     ["info", "--prompt", "x"], ["--version"],
                     ["completion"], ["completion", "tcsh"], ["completion", ""], ["man", "bash"], ["run", "--top"], ["run", "--promptx", "a"]]:
            self.fails(2, *args)

    def test_environment(self):
        self.assertEqual(self.ok("run", env={"PFQC_PROMPT": "abc", "PFQC_PREDICT": "2"}),
                         text_of(greedy(list(b"abc"), 2)) + "\n")
        self.assertEqual(self.ok("run", "-p", "abc", "-n", "1", env={"PFQC_PREDICT": "2"}),
                         text_of(greedy(list(b"abc"), 1)) + "\n")
        self.assertEqual(self.ok("tokenize", "<s>", env={"PFQC_SPECIAL": "1"}), "256\n")
        self.assertEqual(self.ok("tokenize", "<s>", env={"PFQC_SPECIAL": "0"}), "60 115 62\n")
        self.fails(2, "tokenize", "<s>", env={"PFQC_SPECIAL": "yes"})

    def test_broken_stdout(self):
        commands = [["run", "-p", "abc", "-n", "4"], ["logits", "--tokens", "1"], ["info"], ["--help"], ["tokenize", "a"],
                    ["bench", "-p", "4", "-n", "4", "-r", "1"]]
        for args in commands:
            with open("/dev/full", "w") as full:
                self.assertIn("No space left", run(*args, stdout=full, stderr=subprocess.PIPE).stderr.decode())
            read, write = os.pipe()
            os.close(read)
            r = run(*args, stdout=write, stderr=subprocess.PIPE)
            os.close(write)
            self.assertEqual(r.returncode, 1)
            self.assertIn(b"cannot write to standard output: Broken pipe", r.stderr)
            r = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", EXE, *args], capture_output=True, env=CLEAN)
            self.assertEqual(r.returncode, 1)
            self.assertIn(b"cannot write", r.stderr)
            r = subprocess.run(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", EXE, *args], capture_output=True, env=CLEAN)
            self.assertEqual([r.returncode, r.stderr], [0, b""])

    def test_locale_does_not_matter(self):
        for loc in ["de_DE.UTF-8", "tr_TR.UTF-8", "C"]:
            self.assertEqual(self.ok("logits", "--tokens", "1", env={"LC_ALL": loc}), self.ok("logits", "--tokens", "1"))
            self.ok("run", "-p", "a", "-n", "1", "--temp", "0.5", env={"LC_ALL": loc})

    def test_memory_limits(self):
        """With too little address space: a sentence, wherever the lack shows; with enough: the result."""
        with open(EXE, "rb") as f:
            if b"__asan_init" in f.read():
                self.skipTest("AddressSanitizer needs terabytes of address space")
        seen = set()
        for limit in range(2 << 20, 64 << 20, 256 << 10):
            r = subprocess.run([EXE, "run", "-p", "abc", "-n", "3", "-t", "3"], capture_output=True, env=CLEAN,
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
            if r.returncode == 127 or r.returncode < 0 and not r.stderr:
                continue  # the loader did not get what it needs
            if r.returncode == 0:
                self.assertEqual(r.stdout.decode(), text_of(greedy(list(b"abc"), 3)) + "\n")
                break
            self.assertEqual([r.returncode, r.stdout], [1, b""])
            self.assertRegex(r.stderr, rb"^fake_model: error: (cannot (allocate|map|start)|out of memory)[^\n]*\n$")
            seen.add(re.sub(rb"[0-9.]+|'.*'", b"", r.stderr))
        self.assertEqual(r.returncode, 0)
        self.assertGreater(len(seen), 2)

    def test_progress_on_a_terminal(self):
        master, slave = pty.openpty()
        with tempfile.NamedTemporaryFile() as f:
            f.write(b"abcdefgh" * 2000)
            f.flush()
            r = subprocess.run([EXE, "ppl", f.name, "-c", "8"], stdout=subprocess.PIPE, stderr=slave, env=CLEAN)
        os.close(slave)
        self.assertEqual(r.returncode, 0)
        os.close(master)


class Trace(Base):
    """--trace: a track per thread, slices of phases and of the calls in them."""

    def trace(self, *args):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "t.json")
            self.assertEqual(self.ok(*args, "--trace", path), self.ok(*args))
            with open(path) as f:
                events = json.load(f)["traceEvents"]
        names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
        return names, [e for e in events if e["ph"] == "X"]

    def test_calls_of_every_thread(self):
        threads, slices = self.trace("logits", "--tokens", ",".join("7" * 19), "--all", "-t", "3")
        self.assertEqual(threads, {0: "thread 0", 1: "thread 1", 2: "thread 2"})
        for tid in threads:
            mine = [e for e in slices if e["tid"] == tid]
            phases = sorted((e for e in mine if "call" not in e["args"]), key=lambda e: e["ts"])
            seen = []
            for p in phases:
                calls = [e for e in mine if "call" in e["args"] and p["ts"] <= e["ts"] and e["ts"] + e["dur"] <= p["ts"] + p["dur"] + 0.002]
                self.assertTrue(all(e["cat"] == p["name"] and e["args"]["pos"] == p["args"]["pos"] for e in calls))
                seen.append((p["name"], p["args"]["pos"], p["args"]["rows"], [e["name"] for e in calls]))
            want = []
            for pos, n in [(0, 8), (8, 8), (16, 3)]:
                want.append(("prefill", pos, n, ["append", "hash"]))
                want += [("logits", pos, min(3, n - i), ["head"]) for i in range(0, n, 3)]
            self.assertEqual(seen, want)
            self.assertEqual(len(mine), sum(1 + len(w[3]) for w in want))
        self.assertEqual({(e["name"], e["args"]["step"], e["args"]["layer"], e["args"]["ops"]) for e in slices if "call" in e["args"]},
                         {("append", 1, -1, "%kv kv_append"), ("hash", 2, 0, '%h "%last"'), ("head", 3, -1, "%logits")})

    def test_decode(self):
        _, slices = self.trace("run", "-p", "ab", "-n", "6", "-t", "2")
        decode = [e for e in slices if e["tid"] == 0 and e["name"] == "decode"]
        self.assertEqual([e["args"]["pos"] for e in decode], [2, 3, 4, 5, 6])

    def test_where_it_cannot(self):
        for path, message in [("/no/such", "No such file"), ("/dev/full", "No space left")]:
            r = run("run", "-p", "ab", "-n", "2", "--trace", path)
            self.assertEqual(r.returncode, 1)
            self.assertIn(message, r.stderr.decode())
        self.fails(2, "info", "--trace", "x")
        with tempfile.TemporaryDirectory() as d:  # a command that fails leaves no file
            self.fails(1, "run", "-p", "N", "--trace", d + "/t.json")
            self.assertEqual(os.listdir(d), [])


class Weights(Base):
    """Where the weights are found, and what is refused."""

    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.exe = os.path.join(self.dir, "prog")
        shutil.copy(EXE, self.exe)
        with open(EXE + ".weights", "rb") as f:
            self.data = f.read()
        self.args = ["run", "-p", "abc", "-n", "3"]
        self.want = text_of(greedy(list(b"abc"), 3)) + "\n"

    def tearDown(self):
        shutil.rmtree(self.dir)

    def put(self, name, data=None):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            f.write(self.data if data is None else data)
        return path

    def test_places(self):
        self.assertIn("prog.weights': No such file", self.fails(1, *self.args, exe=self.exe))
        self.put("fake_model.weights")
        self.assertEqual(self.ok(*self.args, exe=self.exe), self.want)
        self.put("prog.weights", b"garbage" * 100)
        self.assertIn("is not a pfqc weight image", self.fails(1, *self.args, exe=self.exe))
        elsewhere = self.put("w")
        self.assertEqual(self.ok(*self.args, "--weights", elsewhere, exe=self.exe), self.want)
        os.symlink(self.exe, self.dir + "/link")
        self.put("prog.weights")
        self.assertEqual(self.ok(*self.args, exe=self.dir + "/link"), self.want)

    def test_inside(self):
        inside = os.path.join(HERE, "fake_inside")
        self.assertEqual(self.ok(*self.args, exe=inside), self.want)
        with open(inside, "rb") as f:
            blob = f.read()
        shutil.copy(inside, self.exe)
        with open(self.exe, "wb") as f:  # the image shortened, its trailer kept
            f.write(blob[: -40 - 65536] + blob[-40:])
        self.assertIn("cut short", self.fails(1, *self.args, exe=self.exe))

    def test_damage(self):
        for at, message in [(0, "not a pfqc"), (4, "version"), (8, "byte order"), (12, "damaged"), (16, "compiled with"),
                            (32, "cut short|damaged"), (40, "damaged"), (56, "damaged"), (64, "damaged"), (150, "damaged")]:
            bad = bytearray(self.data)
            bad[at] ^= 0x41
            self.put("prog.weights", bytes(bad))
            self.assertRegex(self.fails(1, *self.args, exe=self.exe), message)
        bad = bytearray(self.data)
        bad[65536 + 7] ^= 1
        self.put("prog.weights", bytes(bad))
        self.assertIn("section 0 'bias'", self.fails(1, "self-test", exe=self.exe))
        self.assertIn("not usable", self.ok("info", "--weights", "/dev/null", exe=self.exe))


if __name__ == "__main__":
    unittest.main(verbosity=1)
