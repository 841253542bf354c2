"""The routes of the model, over the toy model whose rule test_cli.py restates (fake_chat.jinja: every message is the first letter
of its role and its text): test_api.py BUILD_DIR of tests/runtime."""
import contextlib
import http.client
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "runtime"))
import test_cli as cli

CHAT = os.path.join(cli.HERE, "fake_chat")
PLAIN = os.path.join(cli.HERE, "fake_model")
with open(CHAT, "rb") as chat:
    code = chat.read()
    SANITIZED = b"__asan_init" in code or b"__tsan_init" in code


class Server:
    def __init__(self, *args, exe=CHAT, env=None):
        self.p = subprocess.Popen([exe, "serve", "--port", "0", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  env={**cli.CLEAN, **(env or {})})
        line = self.p.stdout.readline().decode()
        assert line.startswith("listening on http://127.0.0.1:"), (line, self.p.stderr.read())
        self.port = int(line.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.p.send_signal(signal.SIGTERM)
        out, err = self.p.communicate(timeout=60)
        if exc[0] is None:
            assert self.p.returncode == 0, (self.p.returncode, err)

    def raw(self, path, body=None, headers=None, method=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        c.request(method or ("POST" if body is not None else "GET"), path, body, headers or {})
        r = c.getresponse()
        text = r.read()
        c.close()
        return r.status, text, r

    def ok(self, path, body=None):
        status, text, _ = self.raw(path, body)
        assert status == 200, (status, text)
        return json.loads(text)

    def error(self, path, body, status=400):
        """The error object of a refusal."""
        got, text, _ = self.raw(path, body)
        assert got == status, (got, text, body)
        e = json.loads(text)["error"]
        assert set(e) >= {"message", "type", "param", "code"}, e
        return e

    def complete(self, prompt, new, **more):
        return self.ok("/v1/completions", {"prompt": prompt, "max_tokens": new, "temperature": 0, **more})

    def chat(self, *turns, **more):
        roles = ["user", "assistant"]
        messages = [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)]
        return self.ok("/v1/chat/completions", {"messages": messages, "temperature": 0, **more})

    def events(self, path, body):
        """The objects of an event stream, which must end with [DONE]."""
        status, text, r = self.raw(path, {**body, "stream": True})
        assert status == 200 and r.getheader("Content-Type").startswith("text/event-stream"), (status, text)
        lines = text.decode().split("\n\n")
        assert lines[-1] == "" and lines[-2] == "data: [DONE]", lines[-3:]
        return [json.loads(x.removeprefix("data: ")) for x in lines[:-2]]

    def metric(self, name):
        for line in self.raw("/metrics")[1].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise KeyError(name)


def logprob(row, i):
    top = max(row)
    return row[i] - top - math.log(sum(math.exp(v - top) for v in row))


def greedy(prompt, n):
    """The tokens made, the end of the text among them."""
    out = cli.greedy(prompt, n)
    return out + [cli.EOS] * (len(out) < n)


def text_of(prompt, n):
    return cli.text_of(cli.greedy(list(prompt), n))


class Api(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.stack = contextlib.ExitStack()
        cls.s = cls.stack.enter_context(Server("--slots", "3"))

    @classmethod
    def tearDownClass(cls):
        cls.stack.close()

    def test_models_and_tokens(self):
        m = self.s.ok("/v1/models")
        self.assertEqual(m["data"][0]["id"], "fake_model")
        self.assertEqual(self.s.ok("/v1/models/fake_model"), m["data"][0])
        for path in "/v1/models/", "/v1/models/other", "/v1/models/fake_model/x":
            e = self.s.error(path, None, 404)
            self.assertEqual((e["param"], e["code"]), ("model", "model_not_found"))
        self.assertEqual(self.s.error("/v1/modelsx", None, 404)["message"], "no such path")
        status, _, r = self.s.raw("/v1/models/fake_model", {}, method="DELETE")
        self.assertEqual((status, r.getheader("Allow")), (405, "GET, HEAD"))
        for body in {"model": "fake_model", "prompt": "a"}, {"prompt": "a"}:
            self.assertEqual(self.s.ok("/tokenize", body)["tokens"], [97])
        for path in "/tokenize", "/detokenize":
            self.assertEqual(self.s.error(path, {"model": "x", "prompt" if path == "/tokenize" else "tokens": "a"}, 404)["param"], "model")
        self.assertEqual(self.s.ok("/tokenize", {"prompt": "a</s>"})["tokens"], [97, cli.EOS])
        self.assertEqual(self.s.ok("/detokenize", {"tokens": [104, 105, 257]})["prompt"], "hi</s>")
        info = self.s.ok("/tokenizer_info")
        with open(os.path.join(os.path.dirname(cli.__file__), "fake_chat.jinja")) as f:
            self.assertEqual(info["chat_template"], f.read())
        self.assertEqual((info["eos_token"], info["bos_token"]), ("</s>", "<s>"))
        self.assertEqual(self.s.ok("/health"), {"status": "ok"})
        self.assertEqual(self.s.metric("pfqc_slots"), 3)

    def test_completion(self):
        n = len(greedy(list(b"hello!"), 9))
        r = self.s.complete("hello!", 9)
        self.assertEqual(r["choices"][0]["text"], text_of(b"hello!", 9))
        self.assertEqual({k: r["usage"][k] for k in ["prompt_tokens", "completion_tokens", "total_tokens"]},
                         {"prompt_tokens": 6, "completion_tokens": n, "total_tokens": 6 + n})
        self.assertEqual(self.s.complete("hello", 2)["choices"][0]["finish_reason"], "length")
        self.assertEqual(self.s.complete([104, 101], 4)["choices"][0]["text"], text_of(b"he", 4))
        r = self.s.complete("xE", 9)["choices"][0]  # two bytes of one character, then the end
        self.assertEqual((r["text"], r["finish_reason"]), ("\u00e9", "stop"))
        r = self.s.complete("xH", 9)["choices"][0]  # half a character
        self.assertEqual((r["text"], r["finish_reason"]), ("\ufffd", "stop"))
        self.assertEqual(self.s.complete("", 3)["choices"][0]["text"], text_of([cli.BOS], 3))

    def test_many_prompts(self):
        prompts = ["one", "two", "a third", "x", "yy", "zzz"]
        r = self.s.complete(prompts, 7)
        self.assertEqual([c["index"] for c in r["choices"]], list(range(6)))
        self.assertEqual([c["text"] for c in r["choices"]], [text_of(p.encode(), 7) for p in prompts])
        r = self.s.complete([[104], [105, 106]], 3)
        self.assertEqual([c["text"] for c in r["choices"]], [text_of(b"h", 3), text_of(b"ij", 3)])

    def test_chat(self):
        r = self.s.chat("hello", max_tokens=6)
        m = r["choices"][0]["message"]
        self.assertEqual((m["role"], m["content"]), ("assistant", text_of(b"uhello", 6)))
        parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
        self.assertEqual(self.s.chat(parts, max_tokens=6)["choices"][0]["message"]["content"], m["content"])
        self.assertEqual(self.s.chat([{"text": "hello"}], max_tokens=6)["choices"][0]["message"]["content"], m["content"])
        r = self.s.chat("hello", m["content"], "more", max_tokens=6)
        self.assertEqual(r["choices"][0]["message"]["content"], text_of(b"uhelloa" + m["content"].encode() + b"umore", 6))
        self.assertGreater(r["usage"]["prompt_tokens_details"]["cached_tokens"], 3)
        r = self.s.chat("x")["choices"][0]  # the context is 512
        self.assertIn(r["finish_reason"], ["stop", "length"])

    def test_what_the_template_does_not_read_is_refused(self):
        msg = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        p = "/v1/chat/completions"
        self.assertEqual(s_param(self.s, p, {**msg, "chat_template_kwargs": {"enable_thinking": False}}), "chat_template_kwargs")
        self.s.ok(p, {**msg, "chat_template_kwargs": {"bos_token": ""}, "tools": [{}]})
        with Server(exe=os.path.join(cli.HERE, "fake_plain")) as s:
            self.assertEqual(s_param(s, p, {**msg, "tools": [{}]}), "tools")
            for more in {"tools": []}, {"tools": [{}], "tool_choice": "none"}:
                self.assertEqual(s.raw(p, {**msg, **more})[0], 200)

    def test_special_tokens_in_a_content_are_text(self):
        for text in ["<|x|>", "a</s>b", "<s>", "<", "<|x", "</s"]:
            r = self.s.chat(text, max_tokens=3)
            self.assertEqual(r["choices"][0]["message"]["content"], text_of(b"u" + text.encode(), 3), text)

    def test_stream(self):
        for body in [{"prompt": "hello"}, {"prompt": "xE"}, {"prompt": "xH"}, {"prompt": "hello", "echo": True}]:
            body = {**body, "max_tokens": 8, "temperature": 0}
            whole = self.s.ok("/v1/completions", body)["choices"][0]
            events = self.s.events("/v1/completions", body)
            self.assertEqual("".join(e["choices"][0]["text"] for e in events), whole["text"])
            ends = [e["choices"][0]["finish_reason"] for e in events]
            self.assertEqual((ends[-1], set(ends[:-1])), (whole["finish_reason"], {None} if ends[:-1] else set()))
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0, "stream_options": {"include_usage": True}}
        events = self.s.events("/v1/chat/completions", body)
        self.assertEqual(events[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        self.assertEqual("".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1]), text_of(b"uhello", 8))
        self.assertEqual((events[-1]["choices"], events[-1]["usage"]["completion_tokens"]), ([], len(greedy(list(b"uhello"), 8))))
        self.assertTrue(all(e["usage"] is None for e in events[:-1]))

    def test_stop(self):
        want = text_of(b"hello", 12)
        stop = want[4:6]
        r = self.s.complete("hello", 12, stop=stop)["choices"][0]
        self.assertEqual((r["text"], r["finish_reason"]), (want[: want.index(stop)], "stop"))
        events = self.s.events("/v1/completions", {"prompt": "hello", "max_tokens": 12, "temperature": 0, "stop": ["nothing", stop]})
        self.assertEqual("".join(e["choices"][0]["text"] for e in events), want[: want.index(stop)])

    def check_logprobs(self, tokens, got, first):
        """got: the arrays of a completion; tokens[first:] are those that must be there."""
        self.assertEqual(len(got["tokens"]), len(tokens) - first)
        for i in range(first, len(tokens)):
            p, top = got["token_logprobs"][i - first], got["top_logprobs"][i - first]
            if i == 0:
                self.assertEqual((p, top), (None, None))
                continue
            row = cli.logit_row(tokens[:i])
            self.assertAlmostEqual(p, logprob(row, tokens[i]), 4)
            self.assertIn(p, top.values())
            self.assertAlmostEqual(max(top.values()), logprob(row, row.index(max(row))), 4)

    def test_logprobs(self):
        prompt = list(b"hello")
        made = greedy(prompt, 5)
        r = self.s.complete("hello", 5, logprobs=2)["choices"][0]["logprobs"]
        self.check_logprobs(prompt + made, r, 5)
        r = self.s.complete("hello", 5, logprobs=1, echo=True)["choices"][0]
        self.assertEqual(r["text"], "hello" + cli.text_of(made))
        self.check_logprobs(prompt + made, r["logprobs"], 0)
        self.assertEqual(r["logprobs"]["text_offset"][:5], [0, 1, 2, 3, 4])
        long = [(7 * i) % 90 + 32 for i in range(100)]  # chunks of 8, rows of 3
        long = [t for t in long if chr(t) not in "EHN"]
        r = self.s.complete(long, 1, logprobs=1, echo=True)["choices"][0]["logprobs"]
        self.check_logprobs(long + greedy(long, 1), r, 0)
        r = self.s.complete(long, 0, logprobs=0, echo=True)["choices"][0]["logprobs"]
        self.assertEqual([len(t or {}) for t in r["top_logprobs"]], [0] + [1] * (len(long) - 1))
        # the end of the text is a token too: what lm-eval cuts off is always one
        r = self.s.complete("xE", 5, logprobs=1, echo=True)["choices"][0]["logprobs"]
        self.assertEqual(r["tokens"], ["x", "E", "bytes:\\xc3", "bytes:\\xa9", "</s>"])
        r = self.s.chat("hello", max_tokens=2, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
        prompt = list(b"uhello")
        for i, t in enumerate(r):
            row = cli.logit_row(prompt + greedy(prompt, 2)[:i])
            self.assertAlmostEqual(t["logprob"], logprob(row, row.index(max(row))), 4)
            self.assertEqual(len(t["top_logprobs"]), 3)

    def test_streamed_logprobs_are_those_of_the_whole(self):
        body = {"prompt": "hello", "max_tokens": 6, "temperature": 0, "logprobs": 2, "echo": True}
        whole = self.s.ok("/v1/completions", body)["choices"][0]["logprobs"]
        parts = [e["choices"][0]["logprobs"] for e in self.s.events("/v1/completions", body)]
        for key in whole:
            self.assertEqual(sum((p[key] for p in parts), []), whole[key])

    def test_seeds(self):
        body = {"prompt": "hello", "max_tokens": 12, "temperature": 1.3, "seed": 5, "logit_bias": {str(ord("N")): -100}}
        a = self.s.ok("/v1/completions", {**body, "n": 3})["choices"]
        for i in range(3):
            self.assertEqual(self.s.ok("/v1/completions", {**body, "seed": 5 + i})["choices"][0]["text"], a[i]["text"])
        del body["seed"]
        self.assertGreater(len({self.s.ok("/v1/completions", body)["choices"][0]["text"] for _ in range(6)}), 1)

    def test_prompts_share_what_is_there(self):
        """Of a prompt all but its last two tokens need not be computed again, in whatever slot they are."""
        prompt = "shared by all of them, "
        first = self.s.complete(prompt + "once", 3)
        self.assertEqual(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        r = self.s.complete([prompt + t for t in ["one", "two", "three"]], 3)
        self.assertGreaterEqual(r["usage"]["prompt_tokens_details"]["cached_tokens"], 3 * len(prompt))
        self.assertEqual([c["text"] for c in r["choices"]], [text_of((prompt + t).encode(), 3) for t in ["one", "two", "three"]])
        r = self.s.complete(prompt + "once", 3, n=3)
        self.assertGreaterEqual(r["usage"]["prompt_tokens_details"]["cached_tokens"], 3 * len(prompt))
        self.assertEqual({c["text"] for c in r["choices"]}, {first["choices"][0]["text"]})

    def test_bias(self):
        r = self.s.complete("hello", 4, logit_bias={"65": 100})["choices"][0]
        self.assertEqual(r["text"], "AAAA")

    def test_together_as_alone(self):
        """Many at once: each has the text that it has alone."""
        jobs = [(f"prompt number {i % 7}, {i}", 3 + i % 13) for i in range(40)]
        got = [None] * len(jobs)

        def ask(i):
            got[i] = self.s.complete(jobs[i][0], jobs[i][1])["choices"][0]["text"]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(jobs))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(got, [text_of(p.encode(), n) for p, n in jobs])

    def test_room(self):
        s, ctx = self.s, 512
        self.assertEqual(s.error("/v1/completions", {"prompt": "x" * (1 << 20)})["param"], "prompt")
        self.assertEqual(s.error("/v1/completions", {"prompt": [65] * (ctx + 1)})["param"], "prompt")
        self.assertEqual(s.error("/v1/completions", {"prompt": [65] * ctx, "max_tokens": 1})["param"], "max_tokens")
        self.assertEqual(s.complete([65] * ctx, 0)["choices"][0]["text"], "")
        self.assertEqual(s.complete([65] * (ctx - 2), 2)["usage"]["total_tokens"], ctx)
        # without max_tokens: 16, or what there is room for
        for left, new in (0, 0), (3, 3), (16, 16), (17, 16):
            r = s.ok("/v1/completions", {"prompt": [65] * (ctx - left), "logit_bias": {"65": 100}, "temperature": 0})
            self.assertEqual((r["usage"]["completion_tokens"], r["choices"][0]["finish_reason"]), (new, "length"))

    def test_refusals(self):
        """What is unknown or not supported is said, with the field's name."""
        p, c = "/v1/completions", "/v1/chat/completions"
        msg = [{"role": "user", "content": "x"}]
        for path, body, param in [
            (p, {}, "prompt"), (p, {"prompt": []}, "prompt"), (p, {"prompt": {}}, "prompt"), (p, {"prompt": [1, "x"]}, "prompt"),
            (p, {"prompt": [320]}, "prompt"), (p, {"prompt": [-1]}, "prompt"), (p, {"prompt": [1.5]}, "prompt"), (p, {"prompt": ["x"] * 33}, "prompt"),
            (p, {"prompt": "x", "grammar": "x"}, "grammar"), (p, {"prompt": "x", "best_of": 2}, "best_of"),
            (p, {"prompt": "x", "suffix": "y"}, "suffix"), (p, {"prompt": "x", "presence_penalty": 0.1}, "presence_penalty"),
            (p, {"prompt": "x", "messages": msg}, "messages"), (p, {"prompt": "x", "stop": ""}, "stop"), (p, {"prompt": "x", "stop": ["a"] * 17}, "stop"),
            (p, {"prompt": "x", "stop": "s" * 257}, "stop"), (p, {"prompt": "x", "logit_bias": {"320": 1}}, "logit_bias"),
            (p, {"prompt": "x", "logit_bias": {"1": 101}}, "logit_bias"), (p, {"prompt": "x", "logit_bias": {"1x": 1}}, "logit_bias"),
            (p, {"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"), (p, {"prompt": "x", "n": 9}, "n"),
            (c, {}, "messages"), (c, {"messages": []}, "messages"), (c, {"messages": ["x"]}, "messages"), (c, {"messages": [{"content": "x"}]}, "messages"),
            *[(c, {"messages": [{"role": "user", "content": [part]}]}, "messages") for part in
              ["x", {}, {"type": "image_url"}, {"type": "text"}, {"type": "image_url", "text": "b"}, {"type": 5, "text": "b"}]],
            (c, {"messages": [{"role": "user", "content": 5}]}, "messages"),
            (c, {"messages": msg, "response_format": {"type": "json_object"}}, "response_format"), (c, {"messages": msg, "tools": {}}, "tools"),
            (c, {"messages": msg, "tool_choice": "required"}, "tool_choice"), (c, {"messages": msg, "top_logprobs": 2}, "top_logprobs"),
            (c, {"messages": msg, "max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"), (c, {"messages": [{"role": "user", "content": "refuse"}]}, "messages"),
            ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 5}, "prompt"), ("/detokenize", {"tokens": [320]}, "tokens"), ("/detokenize", {"tokens": "x"}, "tokens"),
        ]:
            self.assertEqual(s_param(self.s, path, body), param, (path, body))
        e = self.s.error(p, {"prompt": "x", "model": "other"}, 404)
        self.assertEqual((e["type"], e["param"], e["code"]), ("invalid_request_error", "model", "model_not_found"))
        for path, body, param in [(p, {"prompt": [65] * 513}, "prompt"), (p, {"prompt": "x" * 513}, "prompt"), (p, {"prompt": "x" * 500000}, "prompt"),
                                  (p, {"prompt": "x", "max_tokens": 512}, "max_tokens"), (c, {"messages": msg * 500}, "messages")]:
            e = self.s.error(path, body)
            self.assertEqual((e["type"], e["param"], e["code"]), ("invalid_request_error", param, "context_length_exceeded"))
        self.assertIsNone(self.s.error(p, {})["code"])
        self.assertEqual(self.s.complete("x", 1, model="fake_model")["model"], "fake_model")
        self.assertEqual(self.s.complete("x", 2.0)["usage"]["completion_tokens"], 2)  # a whole number, however it is written
        for n in 1.5, 1e300:
            self.assertEqual(s_param(self.s, p, {"prompt": "x", "max_tokens": n}), "max_tokens")
        self.assertIn("may be empty only", self.s.error(p, {"prompt": "x", "suffix": "y"})["message"])
        self.assertEqual(self.s.raw(p, "{}", {"Content-Encoding": "gzip"})[0], 415)
        for body in [b"", b"{", b"[]", b"5", b'{"prompt": "x", "prompt": "y"}', b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 100000]:
            self.s.error(p, body)

    WILD = ["-1", "0", "1", "2147483648", "9223372036854775807", "9223372036854775808", "18446744073709551616", "1e308", "-1e308", "1e400",
            "NaN", '"5"', "null", "[]", "{}", "true", "0.5", "-0", '"\\u0000"', '"\\ud800"', '[null]', '{"": 0}']
    ROUTES = [("/v1/completions", ['"prompt": "x"', '"max_tokens": 1', '"logit_bias": {"78": -100}']),
              ("/v1/chat/completions", ['"messages": [{"role": "user", "content": "x"}]', '"max_tokens": 1', '"logprobs": true', '"logit_bias": {"78": -100}']),
              ("/tokenize", ['"prompt": "x"']), ("/detokenize", ['"tokens": [1]'])]

    def ask_with(self, path, base, field, value):
        """The status of a request with this field; a refusal must be of its form."""
        body = "{%s}" % ", ".join([b for b in base if not b.startswith('"%s"' % field)] + ['"%s": %s' % (field, value)])
        status, text, _ = self.s.raw(path, body)
        self.assertIn(status, [200, 400, 404] if field == "model" else [200, 400], (path, body, text))
        return status, json.loads(text)["error"]["param"] if status != 200 else None

    def fields(self):
        """(path, what else a body needs, field, its bounds or None) of every row of docs/requests.md."""
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "requests.md")
        with open(path) as f:
            for section in f.read().split("\n## ")[1:]:
                route = re.match(r"`POST (\S+)`", section)[1]
                for field, value in re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.M):
                    bounds = re.search(r"(whole )?number, (\d+) to (\d+)", value)
                    yield route, dict(self.ROUTES)[route], field, bounds and (bool(bounds[1]), int(bounds[2]), int(bounds[3]))

    def test_every_field(self):
        """Each field of the documentation with every kind of value, numbers at their bounds and past them: an answer, or a refusal that
        names the field; never more."""
        n = 0
        for path, base, field, bounds in self.fields():
            n += 1
            for v in self.WILD:
                status, param = self.ask_with(path, base, field, v)
                if status == 400 and v not in ["1e400", "NaN", '"\\ud800"'] and not (field, v) == ("top_logprobs", "1"):
                    self.assertEqual(param, "max_tokens" if field == "max_completion_tokens" and v in ("0", "1", "-0") else field, (path, field, v))
            if bounds:
                whole, low, high = bounds
                for v in [low - 1, high + 1] if whole else [low - 1e-9, high + 1e-9, high + 1]:
                    self.assertEqual(self.ask_with(path, base, field, json.dumps(v)), (400, field), (path, field, v))
                if "max_" not in field:
                    self.assertEqual([self.ask_with(path, base, field, json.dumps(v))[0] for v in (low, high)], [200, 200], (path, field))
        self.assertGreater(n, 45)

    def test_odd_texts(self):
        """Empty, a NUL, 1 MiB of one character, not quite UTF-16: an answer or a refusal."""
        for path, field in [("/v1/completions", "prompt"), ("/tokenize", "prompt")]:
            for text, statuses in [('""', [200]), ('"\\u0000"', [200]), ('"%s"' % ("x" * (1 << 20)), [200] if path == "/tokenize" else [400]),
                                   ('"\\ud800"', [400]), ('"\\udc00x"', [400]), ('"\\ud83d\\ude00"', [200]), ('"%s"' % ("\\u0000" * 100), [200])]:
                status, said, _ = self.s.raw(path, '{"%s": %s%s}' % (field, text, ', "max_tokens": 1' if path[1] == "v" else ""))
                self.assertIn(status, statuses, (path, text[:40], said[:200]))


def s_param(s, path, body):
    return s.error(path, body)["param"]


class Gpu(unittest.TestCase):
    """The same on the stub of a GPU's driver, whose batches are another code than its steps."""

    def test_together(self):
        import test_cuda
        for deterministic in ["yes", "no"]:
            with Server("--slots", "3", "--deterministic", deterministic, exe=test_cuda.GPU, env=test_cuda.STUB) as s:
                prompts = ["a beginning of 24 tokens " + chr(97 + i) * (1 + i % 5) for i in range(9)]
                r = s.complete(prompts, 9)
                self.assertEqual([c["text"] for c in r["choices"]], [text_of(p.encode(), 9) for p in prompts])
                self.assertGreaterEqual(r["usage"]["prompt_tokens_details"]["cached_tokens"], 6 * 24)
                threads = [threading.Thread(target=s.complete, args=(p, 20)) for p in prompts]
                for t in threads:
                    t.start()
                for t in threads:
                    t.join()


def together(jobs, work):
    """work(job) of all jobs, each on a thread of its own."""
    got = [None] * len(jobs)

    def one(i):
        got[i] = work(jobs[i])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(jobs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return got


class PromptCache(unittest.TestCase):
    """Prompts whose slot another sequence got are kept in pages of 64 tokens; what begins like them has the text that it has alone."""

    SYSTEM = ["system %d, " % i + chr(97 + i) * (60 + 37 * i) for i in range(8)]  # 70 to 330 tokens

    def cached(self, r):
        return r["usage"]["prompt_tokens_details"]["cached_tokens"]

    def test_a_slot_that_others_had(self):
        with Server("--slots", "1") as s:
            a, b = self.SYSTEM[7], self.SYSTEM[6]
            for prompt, cached in [(a + "one", 0), (b + "one", 0), (a + "two", len(a) // 64 * 64), (b + "two", len(b) // 64 * 64), (a, len(a) // 64 * 64)]:
                r = s.complete(prompt, 5)
                self.assertGreaterEqual(self.cached(r), cached)
                self.assertEqual(r["choices"][0]["text"], text_of(prompt.encode(), 5))
            self.assertEqual(s.metric("pfqc_prompt_cache_hits_total"), 3)
            self.assertEqual(s.metric("pfqc_prompt_cache_tokens_total"), 2 * (len(a) // 64 * 64) + len(b) // 64 * 64 - 3 * len("system "))
            self.assertEqual(s.metric("pfqc_prompt_cache_pages"), len(a) // 64 + len(b) // 64)
            self.assertEqual(s.complete(a + "one", 0, echo=True, logprobs=0)["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        with Server("--slots", "1", "--prompt-cache", "0") as s:
            self.assertLess(sum(self.cached(s.complete(p, 5)) for p in [a, b, a]), 20)

    def test_many_clients(self):
        """64 clients, one system prompt: it is read once, though slots change hands."""
        with Server("--slots", "3") as s:
            system = self.SYSTEM[5]
            jobs = [system + "question %d" % i for i in range(64)]
            s.complete(jobs[0], 4)
            before = s.metric("pfqc_prompt_tokens_total") - s.metric("pfqc_prompt_tokens_cached_total")
            self.assertEqual(together(jobs, lambda p: s.complete(p, 4)["choices"][0]["text"]), [text_of(p.encode(), 4) for p in jobs])
            self.assertLess(s.metric("pfqc_prompt_tokens_total") - s.metric("pfqc_prompt_tokens_cached_total") - before, 64 * (64 + 16))

    def test_thrash(self):
        """More system prompts than there are pages, from many clients: pages come and go, texts are right."""
        for pages, slots in [(1, 1), (4, 2), (7, 3)]:
            with Server("--slots", str(slots), "--prompt-cache", str(64 * pages + 63)) as s:
                jobs = [self.SYSTEM[i * 7 % 8][: 330 - i] + "%d" % (i % 3) for i in range(48)]
                self.assertEqual(together(jobs, lambda p: s.complete(p, 3)["choices"][0]["text"]), [text_of(p.encode(), 3) for p in jobs])
                self.assertLessEqual(s.metric("pfqc_prompt_cache_pages"), pages)
                self.assertGreater(s.metric("pfqc_prompt_cache_dropped_total"), pages)

    def test_on_a_gpu(self):
        import test_cuda
        prompt = list(range(97, 117)) * 8
        for args in [], ["--deterministic", "no"]:
            with Server("--slots", "1", *args, exe=os.path.join(cli.HERE, "fake_deep"), env=test_cuda.STUB) as s:
                for p in [prompt + [65], [66] * 70, prompt + [67], [66] * 70]:
                    r = s.complete(p, 5)
                    self.assertEqual(r["choices"][0]["text"], text_of(p, 5))
                self.assertEqual(s.metric("pfqc_prompt_cache_hits_total"), 2)
                self.assertEqual(s.metric("pfqc_prompt_cache_tokens_total"), 128 + 64)


class Life(unittest.TestCase):
    def test_without_a_template(self):
        with Server(exe=PLAIN) as s:
            self.assertEqual(s.error("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})["param"], "messages")
            self.assertIsNone(s.ok("/tokenizer_info")["chat_template"])

    def test_a_prefix_that_is_bos(self):
        """BOS falls away where more follows; what follows it has its log-probability all the same."""
        with Server(exe=os.path.join(cli.HERE, "fake_prefix")) as s:
            self.assertEqual(s.complete([cli.BOS, 104, 105], 5)["choices"][0]["text"], text_of(b"hi", 5))
            for prompts in [[cli.BOS, 104, 105]], [[cli.BOS, 104, 105]] * 5 + [[104, 105]]:
                for c, prompt in zip(s.complete(prompts, 1, echo=True, logprobs=1)["choices"], prompts):
                    first = prompt[0] == cli.BOS
                    want = [None] + [logprob(cli.logit_row(b), t) for b, t in [([cli.BOS], 104)][: int(first)] + [([104], 105)]]
                    for a, b in zip(c["logprobs"]["token_logprobs"], want):
                        self.assertTrue(a is b or abs(a - b) < 1e-4, (a, b))

    def test_a_step_that_hangs(self):
        """/health tells the truth while a step takes too long, and again when it has ended; the end does not wait for it for ever."""
        def waits(s, state):
            deadline = time.time() + 10
            while True:
                status, text, _ = s.raw("/health")
                if json.loads(text)["status"] == state:
                    return status, text
                self.assertLess(time.time(), deadline, text)
                time.sleep(0.05)

        with Server("--stall", "1", env={"FAKE_SLEEP": "3"}) as s:
            got = []
            t = threading.Thread(target=lambda: got.append(s.complete("aZb", 2)["choices"][0]["text"]))
            t.start()
            status, text = waits(s, "stuck")
            self.assertEqual(status, 503)
            self.assertIn(b"at one step for", text)
            self.assertIn("does not get on", s.error("/v1/completions", {"prompt": "x"}, 503)["message"])
            self.assertEqual(s.raw("/v1/models")[0], 200)
            self.assertEqual(waits(s, "ok")[0], 200)
            t.join()
            self.assertEqual(got, [text_of(b"aZb", 2)])
        s = Server("--stall", "1", env={"FAKE_SLEEP": "3600"})
        c = http.client.HTTPConnection("127.0.0.1", s.port)
        c.request("POST", "/v1/completions", json.dumps({"prompt": "aZb"}))
        waits(s, "stuck")
        for _ in range(2):  # the second one cuts the wait for replies short
            s.p.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        self.assertIn(b"it is given up", s.p.communicate(timeout=20)[1])
        self.assertEqual(s.p.returncode, 1)
        c.close()

    def test_rows_of_all_threads(self):
        """Rows of a batch are drawn, and looked at for log-probabilities, by all threads: each choice as alone."""
        body = {"prompt": "hello", "max_tokens": 40, "temperature": 1.2, "seed": 3, "logit_bias": {str(t): -100 for t in (ord("N"), ord("E"), cli.EOS)}}
        for more in {}, {"logprobs": 3, "echo": True}, {"top_p": 0.9}, {"top_k": 7, "logprobs": 0}, {"logit_bias": {}, "temperature": 0}:
            with Server("-t", "3", "--slots", "3") as s:
                many = s.ok("/v1/completions", {**body, **more, "n": 6})["choices"]
            with Server("-t", "1", "--slots", "1") as s:
                for i, c in enumerate(many):
                    alone = s.ok("/v1/completions", {**body, **more, "seed": 3 + i})["choices"][0]
                    self.assertEqual(c, {**alone, "index": i}, more)

    def test_a_long_text_is_read_beside_others(self):
        """A conversation that takes its time to be read holds up neither /health nor other requests."""
        many = json.dumps({"messages": [{"role": "user", "content": "x"}] * 150000})
        with Server() as s:
            c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
            s.complete("x", 1)
            c.request("POST", "/v1/chat/completions", many)
            n = 0
            while not select.select([c.sock], [], [], 0)[0]:
                self.assertEqual(s.ok("/health"), {"status": "ok"})
                self.assertEqual(s.complete("x", 1)["choices"][0]["text"], text_of(b"x", 1))
                n += 1
            r = c.getresponse()
            self.assertEqual((r.status, json.loads(r.read())["error"]["param"]), (400, "messages"))
            c.close()
            self.assertGreater(n, 5)

    def test_many_long_texts(self):
        """Each gets its answer, or 503; those that still wait to be read do not keep the server from its end."""
        body = json.dumps({"messages": [{"role": "user", "content": "x"}] * 150000}).ljust((8 << 20) - 1)
        with Server() as s:
            got = together(range(8), lambda i: s.raw("/v1/chat/completions", body)[0])
            self.assertLessEqual(set(got), {400, 503})
            open_ = [http.client.HTTPConnection("127.0.0.1", s.port, timeout=60) for _ in range(3)]
            for c in open_:
                c.request("POST", "/v1/chat/completions", body)
        for c in open_:
            c.close()

    def test_bodies_are_not_kept(self):
        """Requests that wait for a slot, behind a step that hangs, hold what was read of their bodies and no more."""
        body = json.dumps({"prompt": "x", "stop": ["a", "b"]}).ljust((8 << 20) - 1)
        n = 20
        with contextlib.ExitStack() as stack:
            s = Server(env={"FAKE_SLEEP": "3600"})
            stack.callback(s.p.communicate)
            stack.callback(s.p.kill)

            def post(body):
                c = stack.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)))
                c.request("POST", "/v1/completions", body)

            def rss():
                with open("/proc/%d/status" % s.p.pid) as f:
                    return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) >> 10  # MiB

            def wait(total, queued):
                deadline = time.time() + 60
                while (s.metric("pfqc_requests_total"), s.metric("pfqc_requests_queued")) != (total, queued):
                    self.assertLess(time.time(), deadline)
                    time.sleep(0.01)

            post('{"prompt": "aZb"}')
            wait(1, 0)
            before = rss()
            for _ in range(n):
                post(body)
            wait(n + 1, n)
            if not SANITIZED:  # freed memory is kept then
                self.assertLess(rss() - before, 4 * n)

    def test_token(self):
        with Server("--api-key", "secret") as s:
            self.assertEqual(s.raw("/v1/models")[0], 401)
            self.assertEqual(s.raw("/v1/models", headers={"Authorization": "Bearer secret"})[0], 200)

    def test_who_is_open_to_all_is_warned(self):
        for args, warned in [(["--host", "0.0.0.0"], True), (["--host", "0.0.0.0", "--api-key", "x"], False), (["--host", "127.0.0.2"], False), ([], False)]:
            p = subprocess.Popen([CHAT, "serve", "--port", "0", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cli.CLEAN)
            self.assertIn(b"listening on", p.stdout.readline())
            p.terminate()
            self.assertEqual(b"no --api-key" in p.communicate(timeout=60)[1], warned, args)
            self.assertEqual(p.returncode, 0)

    def test_a_failing_model_is_503(self):
        with Server() as s:
            s.error("/v1/completions", {"prompt": "N", "temperature": 0}, 503)
            self.assertEqual(s.complete("x", 1)["choices"][0]["text"], text_of(b"x", 1))

    def test_start_errors(self):
        for args in [("--slots", "4"), ("-c", "513"), ("--port", "65536"), ("--prompt-cache", "16777217"), ("--stall", "0"), ("--host", "not.a.host.invalid"), ("--weights", "/nonexistent")]:
            r = subprocess.run([CHAT, "serve", "--port", "0", *args], capture_output=True, env=cli.CLEAN, timeout=60)
            self.assertIn(r.returncode, [1, 2], args)
            self.assertIn(b"error:", r.stderr)
            self.assertEqual(r.stdout, b"", args)

    def test_a_signal_ends_the_loading(self):
        """At once, well and without `listening on`: here loading hangs, in the log of the stub of a GPU's driver."""
        import test_cuda

        with tempfile.TemporaryDirectory() as d:
            os.mkfifo(d + "/log")  # which nobody reads
            p = subprocess.Popen([test_cuda.GPU, "serve", "--port", "0", "--host", "0.0.0.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 env={**cli.CLEAN, **test_cuda.STUB, "PFQ_STUB_LOG": d + "/log"})
            self.addCleanup(p.kill)
            self.assertIn(b"no --api-key", p.stderr.readline())  # said once signals are caught
            p.terminate()
            self.assertEqual(p.communicate(timeout=60), (b"", b"fake_gpu: stopped while the model was being loaded\n"))
            self.assertEqual(p.returncode, 0)

    def test_leaving_frees_the_slot(self):
        with Server("--slots", "1") as s:
            for _ in range(20):
                c = http.client.HTTPConnection("127.0.0.1", s.port, timeout=60)
                c.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 500, "temperature": 1, "stream": True,
                                                                 "logit_bias": {"257": -100}}))
                c.getresponse().read(1)
                c.close()
            self.assertEqual(s.complete("x", 1)["choices"][0]["text"], text_of(b"x", 1))
            deadline = time.time() + 10
            while s.metric("pfqc_requests_running") + s.metric("pfqc_requests_queued") > 0:
                self.assertLess(time.time(), deadline)
                time.sleep(0.01)


if __name__ == "__main__":
    unittest.main()
