"""Many clients at once: load.py [--clients N] [--seconds S] [--full] PROGRAM [-- OPTIONS OF serve]

Starts `PROGRAM serve`, asks every question alone, then again and again by N clients together: streamed and whole, several
choices, token ids with echo and log-probabilities, clients that leave in the middle, at once, or close their side alone.
Every answer must be the one given alone; every status 200, or 503 with Retry-After; after the load the server's memory,
descriptors and counters must be back. Prints one line of figures. --full: 5 minutes, with more clients than the queue takes.
"""
import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time

WORDS = "Once upon a time there was a little girl who had a red ball and a dog. One day the sun did not come out".split()


def questions(rng, n, room):
    """Requests that always get the same answer: greedy, or with a seed; prompts that share beginnings, and ones that do not."""
    out = []
    for i in range(n):
        words = WORDS if i % 2 else rng.sample(WORDS, len(WORDS))
        q = {"prompt": " ".join(words[:1 + i % len(words)]), "max_tokens": rng.choice([1, 7, 24, 60]), "temperature": 0}
        q["max_tokens"] = min(q["max_tokens"], room)
        if i % 4 == 1:  # behind one of a few long beginnings, which come and go as pages of prompts
            q["prompt"] = " ".join(WORDS[i // 4 % 5 :] * 5) + " " + q["prompt"]
        if i % 3 == 0:
            q.update(temperature=0.8, seed=i, n=1 + i % 4 // 3)
        if i % 5 == 0:
            q.update(logprobs=2, echo=i % 10 == 0)
        if i % 7 == 0:
            q.update(stop=["the", "and"])
        out.append(q)
    return out


class Gone(Exception):
    """The client left, as it meant to."""


class Client:
    """One request at a time, each on a connection of its own or, mostly, on the last one."""

    def __init__(self, port, timeout=120):
        self.port, self.timeout, self.r, self.w = port, timeout, None, None

    async def connect(self):
        if not self.w:
            self.r, self.w = await asyncio.open_connection("127.0.0.1", self.port)

    async def close(self):
        if self.w:
            self.w.close()
            try:
                await self.w.wait_closed()
            except OSError:
                pass
            self.w = None

    async def head(self):
        line = (await self.r.readline()).split(b" ", 2)
        headers = {}
        while (h := await self.r.readline()) not in (b"\r\n", b""):
            name, value = h.decode().split(":", 1)
            headers[name.lower()] = value.strip()
        if len(line) < 3:
            raise ConnectionError("the server closed without a reply")
        return int(line[1]), headers

    async def parts(self, headers):
        if "content-length" in headers:
            yield await self.r.readexactly(int(headers["content-length"]))
            return
        while size := (await self.r.readline()).strip():
            if size == b"0":
                await self.r.readline()
                return
            yield await self.r.readexactly(int(size, 16))
            await self.r.readline()
        raise ConnectionError("the reply broke off")

    async def ask(self, method, path, body=None, leave=None):
        """(status, headers, body). leave: None, "at once", "half", or after how many parts."""
        data = b"" if body is None else json.dumps(body).encode()
        self.leaves = leave is not None
        await self.connect()
        self.w.write(("%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (method, path, len(data))).encode() + data)
        await self.w.drain()
        if leave == "half":
            self.w.write_eof()
        if leave == "at once":
            raise Gone
        status, headers = await self.head()
        said = []
        async for part in self.parts(headers):
            said.append(part)
            if status == 200 and isinstance(leave, int) and len(said) > leave:
                raise Gone
        self.n_parts = len(said)
        if headers["connection"] == "close" or leave == "half":
            await self.close()
        return status, headers, b"".join(said)


def joined(events):
    """What the events of a stream amount to, as the whole reply would say it."""
    choices = {}
    lines = [e[6:] for e in events.decode().split("\n\n") if e]
    if not lines or lines.pop() != "[DONE]":
        raise AssertionError("the stream has no end: %r" % events[-200:])
    for e in map(json.loads, lines):
        for c in e["choices"]:
            d = choices.setdefault(c["index"], {"text": "", "logprobs": None, "finish_reason": None})
            d["text"] += c["text"]
            d["finish_reason"] = c["finish_reason"] or d["finish_reason"]
            for k, v in (c.get("logprobs") or {}).items():
                d["logprobs"] = d["logprobs"] or {}
                d["logprobs"].setdefault(k, []).extend(v)
    return [choices[i] for i in sorted(choices)]


def answer(body):
    return [{k: c[k] for k in ("text", "logprobs", "finish_reason")} for c in sorted(json.loads(body)["choices"], key=lambda c: c["index"])]


class Load:
    def __init__(self, a):
        self.a = a
        self.done, self.busy, self.left, self.new_tokens = 0, 0, 0, 0
        self.wrong, self.seconds = [], []
        self.p = subprocess.Popen([a.program, "serve", "--port", "0", *a.options], stdout=subprocess.PIPE, text=True)
        line = self.p.stdout.readline()
        if not line.startswith("listening on "):
            sys.exit("load.py: the server said %r" % line)
        self.port = int(line.rsplit(":", 1)[1])
        self.fds = self.count_fds()

    def count_fds(self):
        return len(os.listdir("/proc/%d/fd" % self.p.pid))

    def rss(self):
        with open("/proc/%d/status" % self.p.pid) as f:
            return next(int(l.split()[1]) for l in f if l.startswith("VmRSS"))

    async def metrics(self):
        c = Client(self.port)
        _, _, text = await c.ask("GET", "/metrics")
        await c.close()
        return {l.rsplit(" ", 1)[0]: float(l.rsplit(" ", 1)[1]) for l in text.decode().splitlines() if l[0] != "#"}

    async def alone(self):
        c, self.want = Client(self.port), []
        for q in self.questions:
            status, _, body = await c.ask("POST", "/v1/completions", q)
            if status != 200:
                sys.exit("load.py: %s: %d %s" % (q, status, body.decode()))
            self.want.append(answer(body))
        parts = 0  # a busy machine may put a whole short stream into one
        for _ in range(20):
            await c.ask("POST", "/v1/completions", {"prompt": WORDS[0], "max_tokens": self.a.room, "temperature": 0, "stream": True})
            parts = max(parts, c.n_parts)
        if parts < 3:
            self.wrong.append("streams of %d tokens came in %d parts at most" % (self.a.room, parts))
        await c.close()

    def check(self, i, got):
        if got != self.want[i]:
            self.wrong.append("asked %s\n  alone    %s\n  together %s" % (json.dumps(self.questions[i]), json.dumps(self.want[i]), json.dumps(got)))

    async def one(self, c, rng):
        i = rng.randrange(len(self.questions))
        q, kind = dict(self.questions[i]), rng.random()
        if kind < 0.03:
            status, headers, body = await c.ask("GET", rng.choice(["/health", "/v1/models", "/"]))
        elif kind < 0.08:
            status, headers, body = await c.ask("POST", "/tokenize", {"prompt": q["prompt"]})
        elif kind < 0.3:
            q["stream"] = rng.random() < 0.7
            leave = rng.choice(["at once", "half", 0, 1, 3] if q["stream"] else ["at once", "half"])
            status, headers, body = await c.ask("POST", "/v1/completions", q, leave)
        else:
            q["stream"] = rng.random() < 0.5
            start = time.time()
            status, headers, body = await c.ask("POST", "/v1/completions", q)
            if status == 200:
                self.check(i, joined(body) if q["stream"] else answer(body))
                self.seconds.append(time.time() - start)
        if status == 503 and "retry-after" in headers:
            self.busy += 1
            await asyncio.sleep(float(headers["retry-after"]) * rng.random())
        elif status != 200:
            self.wrong.append("%d for %s: %s" % (status, q, body.decode()))
        self.done += 1

    async def client(self, seed):
        rng, c = random.Random(seed), Client(self.port)
        while time.time() < self.end and not self.wrong:
            try:
                await asyncio.wait_for(self.one(c, rng), 120)
            except Gone:
                self.left += 1
                await c.close()
            except (ConnectionError, asyncio.IncompleteReadError) as e:
                if not c.leaves:  # those who close their side are let go
                    self.wrong.append("a connection failed: %r" % e)
                self.left += 1
                await c.close()
            if rng.random() < 0.1:
                await c.close()
        await c.close()

    async def together(self, seconds):
        self.end = time.time() + seconds
        await asyncio.gather(*(self.client(s) for s in range(self.a.clients)))

    async def settled(self):
        """The counters and descriptors after the load, once they are back (or after 10 s)."""
        for _ in range(200):
            m = await self.metrics()
            back = m["pfqc_requests_running"] == 0 and m["pfqc_requests_queued"] == 0 and m["pfqc_connections"] == 1
            if back and self.count_fds() == self.fds:
                break
            await asyncio.sleep(0.05)
        return m

    async def run(self):
        self.questions = questions(random.Random(1), 40, self.a.room)
        await self.alone()
        await self.together(self.a.seconds * 0.3)
        warm = (await self.settled())["pfqc_generated_tokens_total"], self.rss()
        await self.together(self.a.seconds * 0.7)
        m = await self.settled()
        rss = self.rss()
        say = []
        for name in ["pfqc_requests_running", "pfqc_requests_queued", 'pfqc_replies_total{code="5xx"}']:
            if m[name] != 0:
                say.append("%s is %g" % (name, m[name]))
        if m["pfqc_prompt_cache_hits_total"] == 0:
            say.append("no prompt began with kept pages")
        if self.count_fds() != self.fds:
            say.append("%d descriptors, %d before" % (self.count_fds(), self.fds))
        if self.a.memory and rss - warm[1] > max(warm[1] // 100, 2048):
            say.append("memory grew from %d to %d KiB" % (warm[1], rss))
        s = sorted(self.seconds) or [0]
        print("%d clients, %.0f s: %d requests, %d answers compared, %d left early, %d times 503; %.0f tokens/s; an answer p50 %.0f ms, p99 %.0f ms; memory %d -> %d KiB; %d prompts from pages"
              % (self.a.clients, self.a.seconds, self.done, len(self.seconds), self.left, self.busy,
                 (m["pfqc_generated_tokens_total"] - warm[0]) / (0.7 * self.a.seconds), 1e3 * s[len(s) // 2], 1e3 * s[len(s) * 99 // 100], warm[1], rss,
                 m["pfqc_prompt_cache_hits_total"]))
        return say + self.wrong[:3]

    def finish(self):
        self.p.send_signal(signal.SIGTERM)
        self.p.stdout.read()
        return self.p.wait(60)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("program")
    p.add_argument("--clients", type=int, default=64)
    p.add_argument("--seconds", type=float, default=8)
    p.add_argument("--room", type=int, default=60, help="tokens that an answer may have")
    p.add_argument("--full", action="store_true")
    p.add_argument("--no-memory", dest="memory", action="store_false", help="sanitisers keep freed memory")
    p.add_argument("options", nargs="*")
    a = p.parse_args()
    if a.full:
        a.seconds, a.clients = 300, 96
    load = Load(a)
    try:
        say = asyncio.run(load.run())
    finally:
        code = load.finish()
    say += ["the server ended with %d" % code] if code else []
    for line in say:
        print(line)
    sys.exit(bool(say))


main()
