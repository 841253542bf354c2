"""`chat` and `prompt` of the toy model (fake_chat.jinja: every message is the first letter of its role and its text):
through pipes, and on a pseudo-terminal as a person would use it. test_chat.py BUILD_DIR"""
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
import fcntl

import test_cli as cli

EXE = os.path.join(cli.HERE, "fake_chat")
CLEAN = cli.CLEAN | {"TERM": "xterm"}


def greedy(prompt, n):
    """(the answer, number of its tokens), by the model's rule."""
    out = cli.greedy(list(prompt), n)
    return cli.text_of(out), len(out)


def conversation(turns, n, system=None, stops=()):
    """The answers to these messages."""
    prompt, answers = b"s" + system.encode() if system else b"", []
    for text in turns:
        prompt += b"u" + text.encode()
        answer = greedy(prompt, n)[0]
        ends = [(answer.find(s) + len(s), answer.find(s)) for s in stops if s in answer]
        if ends:
            answer = answer[: min(ends)[1]]
        answers.append(answer)
        prompt += b"a" + answer.encode()
    return answers


def run(*args, text="", **kw):
    return subprocess.run([EXE, *args], input=text.encode() if isinstance(text, str) else text, capture_output=True, timeout=60,
                          env={**CLEAN, **kw.pop("env", {})}, **kw)


class Pipe(unittest.TestCase):
    def chat(self, lines, *args):
        r = run("chat", *args, text="".join(x + "\n" for x in lines))
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout.decode(), r.stderr.decode()

    def test_turns(self):
        for n in ["1", "7"]:
            out, err = self.chat(["hello", "and you", "x"], "-n", n)
            self.assertEqual(out, "".join(a + "\n" for a in conversation(["hello", "and you", "x"], int(n))))
            self.assertEqual(len(re.findall(r"tokens read.* written", err)), 3)

    def test_ends_and_characters(self):
        self.assertEqual(self.chat(["E"])[0], "\u00e9\n")
        self.assertEqual(self.chat(["H"])[0], "\ufffd\n")
        self.assertEqual(self.chat(["E", "", "E"])[0], "\u00e9\n\u00e9\n")

    def test_cache_is_kept(self):
        """The second prompt begins with the first and its answer: only what is new is read."""
        err = self.chat(["helloE", "moreE"])[1]
        kept = [tuple(map(int, m)) for m in re.findall(r"\[(\d+) tokens read.*; (\d+) kept; (\d+) written", err)]
        self.assertEqual(kept[0], (7, 0, 2))
        # uhelloE + the first byte of the answer, which was computed; its last token never was read
        self.assertEqual(kept[1], (len(b"uhelloEa\xc3\xa9umoreE") - 7, 7, 2))

    def test_kept_cache_changes_nothing(self):
        turns = ["one", "two", "three", "four"]
        self.assertEqual(self.chat(turns, "-n", "9", "-c", "512")[0], "".join(a + "\n" for a in conversation(turns, 9)))

    def test_commands(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "talk.json")
            out, err = self.chat(["/system Be \u00e9", "helloE", f"/save {path}", "/reset", "xE", "/system", "//slashE", "/help", "/exit", "never"])
            self.assertEqual(out, "\u00e9\n\u00e9\n\u00e9\n")
            with open(path) as f:
                saved = json.load(f)
            self.assertEqual(saved, {"messages": [{"role": "system", "content": "Be \u00e9"}, {"role": "user", "content": "helloE"},
                                                  {"role": "assistant", "content": "\u00e9"}]})
            self.assertEqual(os.listdir(folder), ["talk.json"])
            r = run("prompt", path)
            self.assertEqual(r.stdout.decode(), "sBe \u00e9uhelloEa\u00e9")
        self.assertIn("[the system message is set]", err)
        self.assertIn("[system: Be \u00e9]", err)
        self.assertIn("/save FILE", err)

    def test_save_knows_home(self):
        with tempfile.TemporaryDirectory() as folder:
            r = run("chat", text="/save ~/talk.json\n", env={"HOME": folder})
            self.assertEqual((r.returncode, os.listdir(folder)), (0, ["talk.json"]), r.stderr)

    def test_system_is_in_the_prompt(self):
        self.assertEqual(self.chat(["abc"], "--system", "sys", "-n", "6")[0], conversation(["abc"], 6, "sys")[0] + "\n")

    def test_stops(self):
        whole = conversation(["hello"], 40)[0]
        for stop in [whole[3], whole[2:5], whole[7:9], whole[0], whole[:2]]:
            out = self.chat(["hello"], "-n", "40", "--stop", "never", "--stop", stop)[0]
            self.assertEqual(out, conversation(["hello"], 40, stops=["never", stop])[0] + "\n", repr(stop))
        self.assertEqual(self.chat(["xE"], "--stop", "\u00e9")[0], "\n")
        self.assertEqual(run("chat", "--stop", "").returncode, 2)
        self.assertEqual(run("chat", "--stop", "x" * 257).returncode, 2)
        self.assertEqual(run("chat", *["--stop", "x"] * 17).returncode, 2)
        self.assertEqual(run("chat", *["--stop", "x"] * 16).returncode, 0)
        env = {"PFQC_STOP": "\u00e9"}
        self.assertEqual(run("chat", text="xE\n", env=env).stdout.decode(), "\n")
        self.assertEqual(run("chat", "--stop", "z", text="xE\n", env=env).stdout.decode(), "\u00e9\n")

    def test_tools(self):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("[{}, {}]")
            f.flush()
            r = run("chat", "--tools", f.name, "-n", "4", text="abc\n")
            self.assertEqual(r.stdout, greedy(b"T2uabc", 4)[0].encode() + b"\n")
            f.write("x")
            f.flush()
            r = run("chat", "--tools", f.name)
            self.assertEqual((r.returncode, r.stdout), (1, b""))

    def test_errors(self):
        for args, text, words in [(["chat"], "refuse\n", "chat template, line 1: I refuse"), (["chat"], "/nope\n", "no command /nope"),
                                  (["chat"], "/reset all\n", "/reset takes nothing"), (["chat"], "/exit now\n", "/exit takes nothing"),
                                  (["chat", "-c", "8"], "123456789\n", "more than the context of 8"), (["chat"], "N\n", "not finite"),
                                  (["chat", "--tools", "/nonexistent"], "", "/nonexistent"), (["chat"], "/save /nonexistent/x\n", "/nonexistent/x"),
                                  (["prompt", "/dev/null"], "", ""), (["chat", "-c", "513"], "", "512")]:
            r = run(*args, text=text)
            self.assertEqual(r.returncode, 1, (args, r.stderr))
            self.assertIn(words, r.stderr.decode())
        r = subprocess.run([os.path.join(cli.HERE, "fake_plain"), "chat", "--tools", "/dev/null"], input=b"", capture_output=True)
        self.assertEqual(r.returncode, 1)
        self.assertIn(b"has no use for 'tools'", r.stderr)
        r = subprocess.run([os.path.join(cli.HERE, "fake_model"), "chat"], input=b"", capture_output=True)
        self.assertEqual(r.returncode, 1)
        self.assertIn(b"compiled without a chat template", r.stderr)

    def test_full_context(self):
        r = run("chat", "-c", "12", text="abc\n")
        self.assertEqual(r.returncode, 0)
        self.assertIn(b"; the context is full", r.stderr)
        self.assertEqual(r.stdout.decode(), greedy(b"uabc", 9)[0] + "\n")

    def test_an_answer_that_is_cut_says_so(self):
        self.assertIn("; cut at -n]", self.chat(["hello"], "-n", "2")[1])
        self.assertNotIn("; ", self.chat(["xE"], "-n", "9")[1].split("written", 1)[1])

    def test_hostile_bytes(self):
        for text in [b"\xff\xfe\x00\x01E\n", b"\n\n\r\n", b"x" * 100000 + b"\n", b"/system \xff\nE\n"]:
            r = run("chat", "-n", "2", text=text)
            self.assertIn(r.returncode, (0, 1), text[:20])
            r.stdout.decode()

    def test_prompt(self):
        with tempfile.NamedTemporaryFile("w+") as f:
            for content, want in [([{"role": "user", "content": "\u00fc"}], "u\u00fc"), ({"messages": [], "tools": [1]}, "T1"),
                                  ({"messages": [{"role": "x", "content": "1"}], "bos_token": "<s>"}, "<s>x1")]:
                f.seek(0)
                f.truncate()
                json.dump(content, f)
                f.flush()
                r = run("prompt", f.name)
                self.assertEqual((r.returncode, r.stdout.decode()), (0, want), r.stderr)
            f.write("]")
            f.flush()
            self.assertEqual(run("prompt", f.name).returncode, 1)

    def test_info_names_templates(self):
        self.assertIn("chat templates: default tool_use\n", run("info").stdout.decode())

    def test_interrupt_between_messages_ends(self):
        p = subprocess.Popen([EXE, "chat", "-n", "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN)
        p.stdin.write(b"hello\n")
        p.stdin.flush()
        p.stdout.readline()
        time.sleep(0.2)
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(10), -signal.SIGINT)
        for f in (p.stdin, p.stdout, p.stderr):
            f.close()


class Screen:
    """What a terminal of so many columns shows, of the codes that the editor uses."""

    def __init__(self, columns):
        self.columns, self.rows, self.row, self.col = columns, [[]], 0, 0

    def feed(self, text):
        for code, final, char in re.findall(r"\x1b\[([?0-9;]*)([A-Za-z])|(.)", text, re.S):
            n = int(code) if code.isdigit() else 1
            if final == "A":
                self.row = max(0, self.row - n)
            elif final == "C":
                self.col += n
            elif final == "J":
                self.rows = self.rows[: self.row + 1]
                self.rows[self.row] = self.rows[self.row][: self.col]
            elif char == "\r":
                self.col = 0
            elif char == "\n":
                self.row += 1
                if self.row == len(self.rows):
                    self.rows.append([])
            elif char:
                if self.col + 1 > self.columns:  # what is no editor's text may wrap by itself
                    self.col, self.row = 0, self.row + 1
                    self.rows.append([])
                line = self.rows[self.row]
                line += [" "] * (self.col - len(line))
                wide = char >= "\u1100" and char not in "\u200b"
                line[self.col : self.col + 1 + wide] = [char] + [""] * wide
                self.col += 1 + wide
                assert self.col <= self.columns, "written past the edge"

    def lines(self):
        return ["".join(r).rstrip() for r in self.rows]


class Terminal:
    def __init__(self, *args, columns=80, rows=24, shell=()):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.p = subprocess.Popen([*shell, EXE, "chat", *args], stdin=slave, stdout=slave, stderr=slave, env=CLEAN, start_new_session=True,
                                  preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.raw, self.screen = "", Screen(columns)

    def read_until(self, pattern, timeout=20):
        """Reads until the pattern is on the screen's raw output after what was read before."""
        end = time.time() + timeout
        got = b""
        while time.time() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    got += os.read(self.master, 65536)
                except OSError:
                    break
            text = got.decode("utf-8", errors="replace")
            if re.search(pattern, text, re.S):
                self.screen.feed(text)
                return text
        raise AssertionError(f"no {pattern!r} in {got!r}")

    def idle(self):
        """Until nothing comes for a while."""
        got = b""
        while select.select([self.master], [], [], 0.15)[0]:
            got += os.read(self.master, 65536)
        text = got.decode("utf-8", errors="replace")
        self.screen.feed(text)
        return text

    def send(self, text):
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def close(self):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        os.close(self.master)
        os.close(self.slave)


class OnTerminal(unittest.TestCase):
    def start(self, *args, **kw):
        t = Terminal(*args, **kw)
        self.addCleanup(t.close)
        t.read_until("> ")
        return t

    def entered(self, cases):
        """The messages that these lists of keys make, read back from /save."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s.json")
            t = self.start("-n", "1")
            for keys in cases:
                for k in keys:
                    t.send(k)
                    if len(keys) > 1:
                        t.idle()
                t.send("\r")
                t.read_until("written.*> ")
            t.send(f"/save {path}\r")
            t.read_until("saved.*> ")
            t.send("\x04")
            self.assertEqual(t.p.wait(10), 0)
            self.assertEqual(termios.tcgetattr(t.slave), t.before)
            with open(path) as f:
                return [m["content"] for m in json.load(f)["messages"] if m["role"] == "user"]

    def test_a_conversation(self):
        t = self.start("-n", "8")
        for text, answer in zip(["hello", "and you"], conversation(["hello", "and you"], 8)):
            t.send(text + "\r")
            out = t.read_until(r"8 written, [0-9.]+ tok/s; cut at -n\]\r\n.*> ")
            safe = "".join("\ufffd" if (c < " " and c not in "\n\t") or "\x7f" <= c < "\xa0" else c for c in answer)
            self.assertIn(safe.replace("\n", "\r\n"), out)
        t.send("\x04")
        self.assertEqual(t.p.wait(10), 0)

    def test_editing(self):
        left, right, home, end, delete = "\x1b[D", "\x1b[C", "\x1b[H", "\x1b[F", "\x1b[3~"
        cases = [("helo" + left + "l", "hello"), ("bc" + home + "a" + end + "d", "abcd"), ("abc\x7f\x7fx", "ax"), ("abc" + left * 2 + delete, "ac"),
                           ("one two\x17three", "one three"), ("abc\x15x", "x"), ("abcd" + left * 2 + "\x0b", "ab"), ("a\u00e9\u4f60" + left + "\x7fb", "ab\u4f60"),
                           ("xe\u0301\x7fy", "xy"), ("one two" + "\x1b[1;5D" + "X", "one Xtwo"), ("one two\x01\x1b[1;5C!", "one! two"), ("ab\x02\x02\x04", "b"),
                           ("one\x1b\rtwo", "one\ntwo"), ("one\\\rtwo", "one\ntwo"), ("a\tb", "a\tb"), ("ab\x1b\x7fc", "c"), ("l1\x1b\rl2\x1b[AX", "l1X\nl2"),
                           ("\x1b[200~paste\rof\nlines\x1b[201~!", "paste\nof\nlines!"), ("x\x1b[99~\x1bOCy", "xy")]
        for (keys, want), got in zip(cases, self.entered([[keys] for keys, _ in cases]), strict=True):
            self.assertEqual(got, want, repr(keys))

    def test_split_characters(self):
        self.assertEqual(self.entered([[b"\xe4", b"\xbd", b"\xa0", b"\xc3", b"\xa9"]]), ["\u4f60\u00e9"])

    def test_history(self):
        up, down = "\x1b[A", "\x1b[B"
        t = self.start("-n", "1")
        for text in ["first", "second"]:
            t.send(text + "\r")
            t.read_until("written.*> ")
        for keys, shown in [(up, "second"), (up, "first"), (up, "first"), (down, "second"), (down, ""), ("draft" + up, "second"), (down, "draft")]:
            t.send(keys)
            t.idle()
            self.assertEqual(t.screen.lines()[-1], ("> " + shown).rstrip())

    def test_wide_and_long_lines(self):
        t = self.start("-n", "1", columns=20)
        t.send("\u4f60" * 12)
        t.idle()
        self.assertEqual(t.screen.lines()[-2:], ["> " + "\u4f60" * 9, "\u4f60" * 3])
        t.send("\x01" + "ab")
        t.idle()
        self.assertEqual(t.screen.lines()[-2:], ["> ab" + "\u4f60" * 8, "\u4f60" * 4])
        self.assertEqual(t.screen.col, 4)
        t.send("\x15" + "x" * 18)  # what stays behind the cursor is cut only before it
        t.idle()
        self.assertEqual(t.screen.lines()[-3:], ["> " + "x" * 18, "\u4f60" * 10, "\u4f60" * 2])
        self.assertEqual((t.screen.row, t.screen.col), (len(t.screen.rows) - 2, 0))

    def test_interrupt_stops_the_answer_only(self):
        t = self.start("-c", "512")
        t.send("hello\r")
        t.read_until("hello\r\n.*[^\r\n]")
        t.send("\x03")
        t.read_until(r"\]\r\n.*> ")
        t.send("E\r")
        t.read_until("\u00e9\r\n.*> |more than the context.*> ")
        t.send("half a line\x03")
        t.read_until("> ")
        t.send("\x03")
        t.read_until("Ctrl-D leaves.*> ")
        t.send("\x04")
        self.assertEqual(t.p.wait(10), 0)

    def test_an_error_ends_the_turn_only(self):
        t = self.start()
        t.send("refuse\r")
        t.read_until("I refuse.*> ")
        t.send("/nope\r")
        t.read_until("no command.*> ")
        t.send("E\r")
        t.read_until("\u00e9\r\n.*> ")

    def test_terminated_terminal_is_cooked(self):
        for sig in [signal.SIGTERM, signal.SIGHUP]:
            t = self.start()
            self.assertNotEqual(termios.tcgetattr(t.slave), t.before)
            t.p.send_signal(sig)
            self.assertEqual(t.p.wait(10), -sig)
            self.assertEqual(termios.tcgetattr(t.slave), t.before)

    # What a shell does with a job in the foreground; it tells when the job stops.
    SHELL = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
job = os.fork()
if job == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.argv[1], sys.argv[1:])
while os.WIFSTOPPED(end := os.waitpid(job, os.WUNTRACED)[1]):
    os.write(1, b"stopped %d." % job)
sys.exit(os.waitstatus_to_exitcode(end))
"""

    def test_suspend(self):
        """Ctrl-Z gives the shell its terminal back; the text is there when the job goes on."""
        t = self.start(shell=(sys.executable, "-c", self.SHELL))
        for _ in range(2):
            t.send("half a line\x1a")
            job = int(re.search(r"stopped (\d+)\.", t.read_until(r"stopped \d+\."))[1])
            self.assertEqual(termios.tcgetattr(t.slave), t.before)
            os.kill(job, signal.SIGCONT)
            t.read_until(r"> half a line")
            t.send("\x15")
            t.idle()
            self.assertNotEqual(termios.tcgetattr(t.slave), t.before)
        t.send("\x04")
        self.assertEqual(t.p.wait(10), 0)

    def test_random_keys(self):
        import random
        r = random.Random(5)
        t = self.start("-n", "2", columns=13, rows=5)
        keys = ["\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D", "\x1b[H", "\x1b[F", "\x1b[3~", "\x7f", "\x01", "\x05", "\x0b", "\x15", "\x17", "\x1b\r", "\x1bb", "\x1bf", "\x1b\x7f",
                "a", "b c", "\u00e9", "\u4f60\u597d", "e\u0301", "\t", "\x1b[200~x\ry\x1b[201~", "\x0c", "\x1b", "\x1b[", "\xff", "long text " * 5, "\x10", "\x0e"]
        for _ in range(30):
            t.send("".join(r.choice(keys) for _ in range(20)).encode("utf-8", errors="replace"))
            while select.select([t.master], [], [], 0.05)[0]:
                os.read(t.master, 65536)
            self.assertIsNone(t.p.poll())


if __name__ == "__main__":
    unittest.main()
