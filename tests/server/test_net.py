"""The server without a model: test_net.py NET_TOY. What net_toy serves is in net_toy.c; PFQC_TEST_FULL=1 takes minutes."""
import http.client
import json
import math
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

TOY = os.path.abspath(sys.argv.pop(1))
FULL = bool(os.environ.get("PFQC_TEST_FULL"))
with open(TOY, "rb") as toy:  # sanitisers keep freed memory
    code = toy.read()
    PLAIN = b"__asan_init" not in code and b"__tsan_init" not in code


class Toy:
    """A running net_toy; ends it, and requires that it ended well (leaks are found by the sanitisers)."""

    def __init__(self, **options):
        limit = options.pop("nofile", None)
        self.p = subprocess.Popen([TOY, *("%s=%s" % o for o in options.items())], stdout=subprocess.PIPE, text=True,
                                  preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))))
        self.port = int(self.p.stdout.readline().split(":")[-1])
        self.base = self.fds()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for _ in range(2):
            self.p.send_signal(signal.SIGTERM)
            time.sleep(0.005)
        code = self.wait()
        if not error[0]:
            assert code == 0, code

    def wait(self):
        if self.p.poll() is None or not self.p.stdout.closed:
            self.rest = self.p.stdout.read()
            self.p.stdout.close()
        return self.p.wait(30)

    def connect(self, timeout=20):
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def raw(self, text, timeout=20):
        """Sends the bytes, reads until the server closes (or is silent for `timeout`): what it said."""
        with self.connect(timeout) as s:
            try:
                s.sendall(text)
            except ConnectionError:
                pass
            return read_all(s)

    def ask(self, method, path, body=None, headers={}):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            c.request(method, path, body, headers)
            r = c.getresponse()
            r.data = r.read()
            return r
        finally:
            c.close()

    def well(self):
        try:
            return self.ask("GET", "/hello").data == b"hello"
        except (OSError, http.client.HTTPException):
            return False

    def metric(self, name):
        text = self.ask("GET", "/metrics").data.decode()
        return next(int(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))

    def fds(self):
        return len(os.listdir("/proc/%d/fd" % self.p.pid))

    def rss(self):
        if not PLAIN:
            return 0
        with open("/proc/%d/status" % self.p.pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))  # KiB


def read_all(s):
    said = b""
    try:
        while more := s.recv(65536):
            said += more
    except (ConnectionResetError, TimeoutError):
        pass
    return said


def status(said):
    return int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/1.1 ") else said


def get(path="/hello", extra="", host="localhost"):
    return ("GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (path, host, extra)).encode()


def post(path, body=b"", extra=""):
    return ("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n%s\r\n" % (path, len(body), extra)).encode() + body


CLOSE = "Connection: close\r\n"


def eventually(what, seconds=20):
    end = time.time() + seconds
    while not what():
        if time.time() > end:
            return False
        time.sleep(0.005)
    return True


class Routes(unittest.TestCase):
    def test_replies(self):
        with Toy() as t:
            self.assertEqual(t.ask("GET", "/hello").data, b"hello")
            self.assertEqual(t.ask("GET", "/hello?x=1").data, b"hello")
            self.assertEqual(t.ask("POST", "/echo", b"a\0b" * 99999).data, b"a\0b" * 99999)
            self.assertEqual(t.ask("POST", "/later?20").data, b"20")
            self.assertEqual(t.ask("POST", "/count?3").data, b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: [DONE]\n\n")
            self.assertEqual(len(t.ask("GET", "/big?20000000").data), 20000000)
            r = t.ask("HEAD", "/hello")
            self.assertEqual((r.status, r.data, r.headers["Content-Length"]), (200, b"", "5"))
            r = t.ask("PUT", "/echo", b"x")
            self.assertEqual((r.status, r.headers["Allow"]), (405, "POST"))
            self.assertEqual(t.ask("POST", "/hello", b"x").headers["Allow"], "GET, HEAD")
            r = t.ask("GET", "/../etc/passwd")
            self.assertEqual((r.status, json.loads(r.data)["error"]["type"]), (404, "invalid_request_error"))
            self.assertEqual(t.ask("GET", "/%2e%2e/etc/passwd").status, 404)
            page = t.ask("GET", "/")
            self.assertIn("text/html", page.headers["Content-Type"])
            self.assertIn("default-src 'none'", page.headers["Content-Security-Policy"])

    def test_errors_after_the_start_of_a_stream_are_events(self):
        with Toy() as t:
            events = t.ask("POST", "/fail?2").data.split(b"\n\n")
            self.assertEqual(events[:2], [b"data: 0", b"data: 1"])
            error = json.loads(events[2][6:])["error"]
            self.assertEqual((error["message"], error["param"], error["type"]), ("it failed after 2", "n", "server_error"))
            r = t.ask("POST", "/fail?0")
            self.assertEqual((r.status, json.loads(r.data)["error"]["param"]), (500, "n"))

    def test_what_is_too_large_is_an_error(self):
        """An event may be large; more than 64 MiB, whole or waiting, end with a sentence, and count as what they are."""
        def error(data):
            e = json.loads(data)["error"]
            return e["message"], e["type"]

        want = "the reply is too large: more than 64 MiB of it would wait to be sent; ask for less at once", "invalid_request_error"
        x = 16 << 10  # net_toy writes as much at a time
        with Toy() as t:
            self.assertEqual(t.ask("GET", "/burst?%d" % (320 * x)).data, (b"data: " + b"x" * (320 * x) + b"\n\n") * 3)
            self.assertEqual(t.metric("pfqc_replies_too_large_total"), 0)
            events = t.ask("GET", "/burst?%d" % (1500 * x)).data.split(b"\n\n")  # two are sent, the third is too much
            self.assertEqual([len(e) for e in events[:2]], [6 + 1500 * x] * 2)
            self.assertEqual((error(events[2][6:]), events[3:]), (want, [b""]))
            self.assertEqual(error(t.ask("GET", "/burst?%d" % (5000 * x)).data[6:]), want)
            self.assertEqual(t.ask("GET", "/big?%d" % (64 << 20)).status, 200)
            r = t.ask("GET", "/big?%d" % ((64 << 20) + 16))
            self.assertEqual((r.status, error(r.data)), (400, want))
            self.assertEqual((t.metric("pfqc_replies_too_large_total"), t.metric('pfqc_replies_total{code="4xx"}')), (3, 1))
            self.assertEqual(t.metric("pfqc_replies_cancelled_total"), 0)

    def test_events_come_when_they_are_sent(self):
        with Toy() as t, t.connect() as s:
            s.sendall(post("/count?2000"))
            first = b""
            while b"data: 0" not in first:
                first += s.recv(65536)
            self.assertNotIn(b"1999", first)
            self.assertIn(b"Transfer-Encoding: chunked", first)

    def test_old_clients_get_no_chunks(self):
        with Toy() as t:
            said = t.raw(b"POST /count?2 HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
            self.assertTrue(said.endswith(b"\r\n\r\ndata: 0\n\ndata: 1\n\ndata: [DONE]\n\n"), said)
            self.assertNotIn(b"chunked", said)

    def test_connections_are_kept(self):
        with Toy() as t:
            c = http.client.HTTPConnection("127.0.0.1", t.port)
            for path in ["/hello", "/none", "/later?2", "/count?2", "/hello"] * 20:
                c.request("POST" if "?" in path else "GET", path)
                c.getresponse().read()
            self.assertEqual(t.metric("pfqc_connections_total"), 2)
            c.close()

    def test_pipelined(self):
        with Toy() as t:
            said = t.raw(get() * 1000 + post("/echo", b"end", CLOSE))
            self.assertEqual(said.count(b"hello"), 1000)
            self.assertTrue(said.endswith(b"\r\n\r\nend"))
            said = t.raw(post("/later?3") + post("/count?1") + post("/later?4", b"", CLOSE))
            self.assertTrue(said.endswith(b"4") and b"data: 0" in said and b"\r\n\r\n3HTTP/1.1" in said, said)

    def test_continue(self):
        with Toy() as t, t.connect() as s:
            s.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
            self.assertEqual(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
            s.sendall(b"ok")
            self.assertTrue(s.recv(1000).endswith(b"ok"))  # in one piece


class Guards(unittest.TestCase):
    def test_host_and_origin(self):
        with Toy(name="box.example") as t:
            for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:80", "192.168.1.7", "box.example", "box.example:99"]:
                self.assertEqual(status(t.raw(get(extra=CLOSE, host=host))), 200, host)
                mine = "Origin: http://%s\r\n" % host
                self.assertEqual(status(t.raw(get(extra=mine + CLOSE, host=host))), 200, host)
            for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "box.example.", "a b"]:
                self.assertIn(status(t.raw(get(extra=CLOSE, host=host))), [403] if host != "[::1" else [200, 403], host)
            for origin in ["http://evil.example", "null", "https://localhost.evil", "http://localhost:1", "file://", "localhost"]:
                self.assertEqual(status(t.raw(get(extra="Origin: %s\r\n" % origin + CLOSE))), 403, origin)

    def test_token(self):
        with Toy(token="s3cret") as t:
            for given in [None, "Bearer ", "Bearer s3cre", "Bearer s3crets", "Bearer S3cret", "Basic s3cret", "s3cret", "Bearer  s3cret"]:
                r = t.ask("GET", "/hello", headers={"Authorization": given} if given is not None else {})
                self.assertEqual((r.status, r.headers["WWW-Authenticate"]), (401, "Bearer"), given)
                self.assertEqual(json.loads(r.data)["error"]["code"], "invalid_api_key")
            self.assertEqual(t.ask("GET", "/hello", headers={"Authorization": "bearer s3cret"}).status, 200)
            self.assertEqual([t.ask("GET", p).status for p in ["/", "/health", "/metrics"]], [200, 200, 401])
            # a body that nobody may send is not waited for
            self.assertEqual(status(t.raw(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8000000\r\n\r\n")), 401)

    def test_health(self):
        with Toy(loading=1) as t:
            r = t.ask("GET", "/health")
            self.assertEqual((r.status, json.loads(r.data)["status"], r.headers["Retry-After"]), (503, "loading", "1"))
            self.assertEqual([t.ask("POST", "/count?1").status, t.ask("GET", "/hello").status], [503, 200])
        with Toy() as t:
            self.assertEqual(t.ask("GET", "/health").status, 200)
            self.assertEqual(t.ask("POST", "/die").status, 500)
            r = t.ask("GET", "/health")
            self.assertEqual((r.status, json.loads(r.data)), (503, {"status": "dead", "why": 'it was "asked" to'}))
            self.assertEqual(t.ask("POST", "/count?1").status, 503)

    def test_metrics(self):
        """As promtool checks: families in one piece with help and type, names by type, histograms that add up."""
        with Toy() as t:
            text = t.ask("GET", "/metrics").data.decode()
        self.assertTrue(text.endswith("\n"))
        families, samples = {}, {}
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split()[2]
                self.assertNotIn(family, families)
                self.assertTrue(line.split(" ", 3)[3].strip())
            elif line.startswith("# TYPE "):
                self.assertEqual(line.split()[2], family)
                families[family] = line.split()[3]
            else:
                name, labels, value = re.fullmatch(r'([a-z_:][a-z0-9_:]*)(?:\{(\w+="[^"]*")\})? (\S+)', line).groups()
                self.assertIn(name, [family, *(family + x for x in ("_bucket", "_sum", "_count"))])
                self.assertNotIn((name, labels), samples)
                samples[name, labels] = float(value)
        for family, kind in families.items():
            self.assertEqual(family.endswith("_total"), kind == "counter", family)
            if kind == "histogram":
                buckets = [(float(k[1][4:-1]), v) for k, v in samples.items() if k[0] == family + "_bucket"]
                self.assertEqual(buckets, sorted(buckets))
                self.assertEqual([x for x, _ in buckets], sorted({x for x, _ in buckets}))
                self.assertEqual([x for x, _ in buckets][:-1], [0.001 * 2**i for i in range(len(buckets) - 1)])
                self.assertEqual(buckets[-1], (math.inf, samples[family + "_count", None]))


class Hostile(unittest.TestCase):
    def test_smuggling(self):
        """Every one is refused and the connection closed: what follows is never a request."""
        chunked = "Transfer-Encoding: chunked\r\n"
        head = "POST /echo HTTP/1.1\r\nHost: localhost\r\n"
        cases = [(400, "Content-Length: 5\r\n" + chunked + "\r\n0\r\n\r\n"), (400, "Content-Length: 3\r\nContent-Length: 5\r\n\r\nabc"),
                 (400, chunked + "\r\n-2\r\n"), (400, "Content-Length: +5\r\n\r\nhello"), (400, chunked + "\r\n0x2\r\nab\r\n0\r\n\r\n"),
                 (400, "A: b\nContent-Length: 3\r\n\r\nabc"), (400, "A: b\r\n c\r\n\r\n"), (400, "A\0: b\r\n\r\n"), (400, "A: b\0\r\n\r\n"),
                 (400, "Content-Length : 3\r\n\r\nabc"), (501, "Transfer-Encoding: xchunked\r\n\r\n"), (431, "a: b\r\n" * 100000),
                 (431, "a: " + "b" * 1000000), (414, None), (400, chunked + "\r\n5\r\nhelloX\r\n0\r\n\r\n")]
        with Toy() as t:
            t.ask("GET", "/hello")
            before = t.rss()
            for want, text in cases:
                said = t.raw((head + text).encode() + get() if text else b"A" * 1000000)
                self.assertEqual(status(said), want, text and text[:80])
                self.assertEqual(said.count(b"HTTP/1.1 "), 1, said)
                self.assertIn(b"Connection: close", said)
                self.assertIn("error", json.loads(said.split(b"\r\n\r\n", 1)[1]))
            self.assertLess(t.rss() - before, 4096)

    def test_requests_that_break_off(self):
        whole = post("/count?3", b"x" * 50, "A: b\r\n") + get()
        with Toy() as t:
            for n in range(0, len(whole)):
                with t.connect() as s:
                    s.sendall(whole[:n])
                    if n % 3 == 0:
                        s.shutdown(socket.SHUT_WR)
                    if n % 2:
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closes with a reset
            self.assertTrue(eventually(lambda: t.fds() == t.base), t.fds())
            self.assertEqual(t.ask("GET", "/hello").status, 200)

    def test_slow_requests_are_cut(self):
        with Toy(head=0.7, body=0.7, idle=0.7) as t:
            start = time.time()
            self.assertEqual(t.raw(b""), b"")
            self.assertEqual(status(t.raw(b"GET / HT")), 408)
            self.assertEqual(status(t.raw(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab")), 408)
            said = t.raw(get())
            self.assertTrue(said.endswith(b"hello"))
            self.assertLess(time.time() - start, 15)
            with t.connect() as s:  # a byte now and then does not help
                s.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n")
                for _ in range(40):
                    try:
                        s.sendall(b"x")
                    except ConnectionError:
                        break
                    time.sleep(0.05)
                else:
                    self.fail("still there")
            self.assertGreaterEqual(t.metric('pfqc_connections_closed_total{why="slow"}'), 5)

    def test_slow_readers_are_cut(self):
        with Toy(send=0.5) as t:
            before = t.rss()
            with t.connect() as s, t.connect() as big:
                s.sendall(get("/flood"))
                big.sendall(get("/big?30000000"))
                self.assertTrue(eventually(lambda: t.metric("pfqc_replies_cancelled_total") == 1))
                self.assertTrue(eventually(lambda: t.metric("pfqc_connections") == 1))
            self.assertLess(t.rss() - before, 40 << 10)
            self.assertEqual(t.ask("GET", "/hello").status, 200)

    def test_readers_of_a_little_now_and_then_are_cut(self):
        """Who takes something all the time, but too little, keeps no whole reply; who is fast enough has it."""
        n = 20000000
        for speed, whole in (1e8, False), (1e6, True):
            with Toy(send=1, speed=speed) as t, socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                s.connect(("127.0.0.1", t.port))
                s.sendall(get("/big?%d" % n, CLOSE))
                got = 0
                try:
                    while more := s.recv(1 << 15):
                        got += len(more)
                        time.sleep(0.005)
                except ConnectionError:
                    pass
                self.assertEqual(got > n, whole, got)
                self.assertEqual(t.metric('pfqc_connections_closed_total{why="slow"}'), 0 if whole else 1)

    def test_slow_clients_beside_good_ones(self):
        """Slow connections fill the server; others are served all the same (H35)."""
        seconds, gap, n = (60, 5, 256) if FULL else (4, 0.5, 256)
        end = threading.Event()

        def slow(n):  # n connections, a byte to each now and then
            text = get("/hello", "X: " + "y" * 1000)
            line = [[None, 0] for _ in range(n)]
            while not end.wait(gap):
                for c in line:
                    try:
                        c[0] = c[0] or self.t.connect()
                        c[0].send(text[c[1]:c[1] + 1])
                        c[1] += 1
                    except OSError:
                        c[0] and c[0].close()
                        c[:] = None, 0
            for c in line:
                c[0] and c[0].close()

        def good(times, errors):
            while not end.is_set():
                start = time.time()
                try:
                    if self.t.ask("POST", "/count?3").status != 200 or self.t.ask("GET", "/hello").data != b"hello":
                        errors.append("status")
                except OSError as e:
                    errors.append(repr(e))
                times.append(time.time() - start)

        def p99(seconds, extra):
            times, errors = [], []
            end.clear()
            threads = [threading.Thread(target=slow, args=(extra,))]
            threads += [threading.Thread(target=good, args=(times, errors)) for _ in range(4)]
            threads[0].start()
            self.assertTrue(eventually(lambda: self.t.metric("pfqc_connections") > min(extra, 250), 3 * gap + 5))
            for th in threads[1:]:
                th.start()
            time.sleep(seconds)
            end.set()
            for th in threads:
                th.join()
            self.assertEqual(errors, [])
            return sorted(times)[len(times) * 99 // 100], len(times)

        with Toy(head=0 if FULL else 2) as self.t:
            alone, _ = p99(min(seconds, 5) / 3, 0)
            beside, count = p99(seconds, n)
            print("p99 of good clients: %.1f ms alone, %.1f ms beside %d slow ones (%d requests)" % (1e3 * alone, 1e3 * beside, n, count))
            self.assertLess(beside, 2 * alone + 0.5)

    def test_too_many(self):
        with Toy(connections=4) as t:
            kept = [t.connect() for _ in range(4)]
            for s in kept:
                s.sendall(post("/count?100000"))
                s.recv(1)
            said = t.raw(b"")
            self.assertEqual(status(said), 503)
            self.assertIn(b"Retry-After: 1", said)
            kept.pop().close()
            self.assertTrue(eventually(lambda: status(t.raw(get(extra=CLOSE))) == 200))
            for s in kept:
                s.close()

    def test_memory_of_connections(self):
        """What half a request may hold of the server's memory (H34)."""
        with Toy() as t:
            t.ask("GET", "/hello")
            before, n = t.rss(), 240
            many = [t.connect() for _ in range(n)]
            for s in many:
                s.sendall(b"GET / HTTP/1.1\r\n" + b"a: %s\r\n" % (b"b" * 300) * 99)
            self.assertTrue(eventually(lambda: t.metric("pfqc_connections") == n + 1))
            self.assertLess(t.rss() - before, 64 * n)
            for s in many:
                s.close()

    def test_out_of_memory(self):
        """Each allocation fails in turn, alone or with the next 4: what is answered is right, and the server goes on."""
        want = [("GET", "/hello", b"hello"), ("POST", "/echo", b"x" * 9000), ("POST", "/later?2", b"2"), ("GET", "/big?65536", None),
                ("POST", "/count?2", b"data: 0\n\ndata: 1\n\ndata: [DONE]\n\n"), ("GET", "/metrics", None), ("GET", "/none", None)]
        for hunger in [0, 4]:
            lost = 0
            for n in range(2, 70):  # the first is the loop's own: without it the server does not start
                with Toy(starve=n, hunger=hunger) as t:
                    for method, path, data in want:
                        try:
                            r = t.ask(method, path, data if path == "/echo" else None)
                            whole = r.status == (404 if path == "/none" else 200)
                            lost += not whole
                            self.assertTrue(whole or r.status == 503, (n, path, r.status))
                            self.assertTrue(not whole or data is None or r.data == data, (n, path, r.data))
                        except (OSError, http.client.HTTPException):
                            lost += 1
                    self.assertTrue(eventually(lambda: t.well()), n)
            self.assertGreater(lost, 20)

    def test_many_bodies(self):
        """All bodies together are bounded: who comes too much is told to come again."""
        with Toy(bodies=1 << 20) as t, t.connect() as a, t.connect() as b:
            for s in (a, b):
                s.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 800000\r\n\r\n" + b"x" * 700000)
            self.assertTrue(eventually(lambda: t.metric('pfqc_replies_total{code="503"}') == 1))
            self.assertEqual(t.ask("POST", "/echo", b"y" * 900).data, b"y" * 900)

    def test_few_descriptors(self):
        with Toy(nofile=24) as t:
            many = [t.connect() for _ in range(60)]
            self.assertEqual(t.ask("GET", "/hello").status, 200)
            for s in many:
                s.close()


class Listening(unittest.TestCase):
    def test_refusals(self):
        with Toy() as t:
            for options in [["port=%d" % t.port], ["host=192.0.2.1"]]:
                r = subprocess.run([TOY, *options], capture_output=True, text=True, timeout=30)
                self.assertEqual((r.returncode, r.stdout, r.stderr.count("\n")), (1, "", 1))
                self.assertRegex(r.stderr, "cannot listen at [0-9.]+, port [0-9]+: ")

    def test_ipv6(self):
        if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
            self.skipTest("no IPv6 here")
        p = subprocess.Popen([TOY, "host=::1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(p.communicate)
        self.addCleanup(p.terminate)
        line = p.stdout.readline()
        if not line:
            self.skipTest("no ::1 here")
        self.assertTrue(line.startswith("listening on http://[::1]:"), line)
        c = http.client.HTTPConnection("::1", int(line.rsplit(":", 1)[1]))
        c.request("GET", "/hello")
        self.assertEqual(c.getresponse().read(), b"hello")
        c.close()


class Leaving(unittest.TestCase):
    def test_cancel(self):
        """A client that leaves, in any way, ends its reply at once; nothing is left of it (H38)."""
        rounds = 10000 if FULL else 300
        with Toy() as t:
            for i in range(rounds):
                with t.connect() as s:
                    s.sendall(post("/later?100000" if i % 3 == 0 else "/count?100000"))
                    if i % 3 == 1:
                        s.recv(1000)
                    elif i % 3 == 2:
                        s.shutdown(socket.SHUT_WR)
                if i == rounds // 10:
                    eventually(lambda: t.metric("pfqc_connections") == 1)
                    rss = t.rss()
            self.assertTrue(eventually(lambda: t.metric("pfqc_connections") == 1))
            self.assertEqual(t.metric("pfqc_replies_cancelled_total"), rounds)
            self.assertTrue(eventually(lambda: t.fds() == t.base))
            self.assertLess(t.rss(), rss + 512)
        self.assertEqual(t.rest, "cancelled %d\n" % rounds)

    def test_drain(self):
        with Toy() as t, t.connect() as s, t.connect() as idle:
            s.sendall(post("/count?150"))
            s.recv(10)
            t.p.send_signal(signal.SIGTERM)
            said = read_all(s)
            self.assertTrue(said.endswith(b"[DONE]\n\n\r\n0\r\n\r\n"), said[-100:])
            self.assertEqual(read_all(idle), b"")
            self.assertEqual(t.wait(), 0)
            self.assertEqual(t.rest, "cancelled 0\n")
            with self.assertRaises(ConnectionRefusedError):
                t.connect()

    def test_drain_ends(self):
        for options, signals in [({"drain": 0.2}, [signal.SIGTERM]), ({}, [signal.SIGTERM, signal.SIGINT])]:
            with Toy(**options) as t, t.connect() as s:
                s.sendall(post("/count?100000"))
                s.recv(10)
                start = time.time()
                for sig in signals:
                    t.p.send_signal(sig)
                    time.sleep(0.05)
                self.assertFalse(read_all(s).endswith(b"0\r\n\r\n"))
                self.assertEqual(t.wait(), 0)
                self.assertLess(time.time() - start, 15)
                self.assertEqual(t.rest, "cancelled 1\n")


if __name__ == "__main__":
    unittest.main(verbosity=2)
