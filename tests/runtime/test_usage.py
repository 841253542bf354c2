"""--help, manual page, reference page and completion say the same: test_usage.py BUILD_DIR PFQC.

--help is what the parser knows; everything else is compared with it, for the toy program and for pfqc. What needs zsh,
fish or mandoc is skipped where they are missing."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

PFQC = os.path.abspath(sys.argv.pop())
import test_cli as cli  # noqa: E402 (it takes the first argument)

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


def out(*args, **kw):
    r = subprocess.run(args, capture_output=True, env=cli.CLEAN, timeout=120, **kw)
    assert r.returncode == 0, (args, r.stderr)
    return r.stdout.decode()


def options(help_text):
    """{(long name, letter, ARG)} of a --help."""
    return {(m[2], m[1] or "", (m[3] or "").strip())
            for m in re.finditer(r"^ +(?:-(\w), +)?--([\w-]+)(?:[ =](\S*))?  ", help_text, re.M)}


class Program:
    def __init__(self, path):
        self.path, self.name = path, os.path.basename(path)
        general = out(path, "--help")
        if self.name == "pfqc":
            words = re.findall(r"^pfqc (\w+)?(?: ?(\S.*?))??  +", general, re.M)
            self.commands = {"": "MODEL.json", **{c: o for c, o in words if c and c != "MODEL"}}
        else:
            self.commands = dict(re.findall(r"^  ([\w-]+) (\S*) +", general, re.M))
        self.options = {c: options(out(path, *([c] if c else []), "--help")) for c in self.commands}
        for c in self.commands if self.name != "pfqc" else ():
            self.options[c].add(("help", "h", ""))  # the parser's own

    def long(self, command):
        return {"--" + o[0] for o in self.options[command]}


PROGRAMS = [Program(cli.EXE), Program(PFQC)]


def needs(*tools):
    missing = [t for t in tools if not shutil.which(t)]
    return unittest.skipIf(missing, "not installed: " + ", ".join(missing))


class Pages(unittest.TestCase):
    def test_something_was_read(self):
        toy, pfqc = PROGRAMS
        self.assertIn(("predict", "n", "N"), toy.options["run"])
        self.assertIn(("output", "o", "md|json"), toy.options["bench"])
        self.assertEqual(toy.commands["completion"], "bash|zsh|fish")
        self.assertIn(("effort", "", "fast|full"), pfqc.options[""])
        self.assertLessEqual({"init", "opt", "ppl", "explain", "doc", "man", "completion", ""}, set(pfqc.commands))

    @needs("mandoc")
    def test_manual_page(self):
        for p in PROGRAMS:
            source = out(p.path, "man")
            subprocess.run(["mandoc", "-T", "lint", "-W", "error"], input=source.encode(), check=True, stdout=subprocess.DEVNULL)
            page = subprocess.run(["mandoc", "-T", "ascii"], input=source.encode(), check=True, capture_output=True).stdout.decode()
            page = re.sub(".\b", "", page)
            for command, known in p.options.items():
                self.assertRegex(page, rf"(?m)^   {p.name}{' ' + command if command else ''}( |$)")
                for name, letter, arg in known:
                    entry = (f"-{letter}, " if letter else "") + f"--{name}" + (f" {arg}" if arg else "")
                    self.assertRegex(page, rf"(?m)^     {re.escape(entry)}( |$)", (command, entry))
            self.assertNotIn("%s", page)

    def test_reference_page(self):
        for p, which in zip(PROGRAMS, ["program", "pfqc"]):
            name = "NAME" if which == "program" else "pfqc"
            with open(f"{ROOT}/docs/{which}.md") as f:
                page = f.read()
            parts = re.split(r"^#+ (.*)$", page, flags=re.M)
            sections = dict(zip(parts[1::2], parts[2::2]))
            seen = {}
            for command, operands in p.commands.items():
                title = "`" + " ".join(w for w in [name, command, operands] if w) + "`"
                seen[command] = set(re.findall(r"^\| `--([\w-]+)", sections[title], re.M))
            for line in re.findall(r"^\| `--.*$", sections["Common options"], re.M):
                option = re.match(r"\| `--([\w-]+)", line)[1]
                which_ones = re.search(r"; for (.*) \|$", line)
                for c in re.findall(r"`([\w-]+)`", which_ones[1]) if which_ones else p.commands:
                    seen[c].add(option)
            for command, known in p.options.items():
                if p.name != "pfqc" or command:  # `pfqc --help` lists all
                    self.assertEqual(seen[command], {o[0] for o in known}, command)

    def test_pages_name_options_that_exist(self):
        known = {"--" + o[0] for p in PROGRAMS for c in p.options for o in p.options[c]}
        others = {"--full", "--install",  # scripts/test, cmake
                  "--fmad",  # NVRTC
                  "--table", "--model", "--text", "--log", "--seeds", "--only", "--jobs",  # scripts/accuracy
                  "--bench", "--rounds"}  # scripts/compare
        for page in ["README.md", "ARCHITECTURE.md"] + ["docs/" + f for f in os.listdir(ROOT + "/docs") if f.endswith(".md")]:
            with open(os.path.join(ROOT, page)) as f:
                for word in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", f.read()):
                    self.assertIn(word, known | others, page)


    @needs("cmake")
    def test_installed(self):
        with tempfile.TemporaryDirectory() as d:
            out("cmake", "--install", os.path.dirname(PFQC), "--prefix", d)
            for path, args in [("share/man/man1/pfqc.1", ["man"]), ("share/bash-completion/completions/pfqc", ["completion", "bash"]),
                               ("share/zsh/site-functions/_pfqc", ["completion", "zsh"]),
                               ("share/fish/vendor_completions.d/pfqc.fish", ["completion", "fish"])]:
                with open(os.path.join(d, path)) as f:
                    self.assertEqual(f.read(), out(d + "/bin/pfqc", *args))


class Completion(unittest.TestCase):
    """Each shell's candidates for a line, against the tables."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        os.mkdir(self.dir.name + "/folder")
        open(self.dir.name + "/two words.txt", "w").close()

    def tearDown(self):
        self.dir.cleanup()

    def script(self, p, shell):
        path = os.path.join(self.dir.name, "." + shell)
        with open(path, "w") as f:
            f.write(out(p.path, "completion", shell))
        return path

    def candidates(self, shell, p, *words):
        return getattr(self, shell)(p, self.script(p, shell), *words)

    def bash(self, p, script, *words):
        run = f'. {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _{p.name}; printf "%s\\n" "${{COMPREPLY[@]}}"'
        return set(out("bash", "-c", run, "bash", p.name, *words, cwd=self.dir.name).splitlines()) - {""}

    def fish(self, p, script, *words):
        line = " ".join([p.name, *words])
        got = out("fish", "--no-config", "-c", f"source {script}; complete -C '{line}'", cwd=self.dir.name)
        return {line.split("\t")[0].removesuffix("/") for line in got.splitlines()} - {""}

    def zsh(self, p, script, *words):
        """What the script hands to zsh's own functions; they are not run."""
        stubs = ('compdef() { :; }; _describe() { local c; for c in "${(@P)4}"; do print -r -- "${c%%:*}"; done; }; '
                 '_arguments() { print -rl -- "$@"; }; ')
        run = f'{stubs} source {script}; words=("$@"); CURRENT=$#; _{p.name}'
        found = set()
        for spec in out("zsh", "-f", "-c", run, "zsh", p.name, *words, cwd=self.dir.name).splitlines():
            option = re.match(r"(?:\(.*?\))?(-[\w-]+)", spec)
            found.add(option[1] if option else spec)
        return found

    def every(self, shell):
        for p in PROGRAMS:
            commands = {c for c in p.commands if c}
            self.assertLessEqual(commands, self.candidates(shell, p, ""))
            for c in commands:
                got = {w for w in self.candidates(shell, p, c, "--") if w.startswith("--")}
                self.assertEqual(got, p.long(c), (p.name, c))

    def test_bash(self):
        self.every("bash")
        toy, pfqc = PROGRAMS
        files = {"folder", "two words.txt", ".bash"}
        for p, words, want in [
                (toy, ["b"], {"bench"}), (toy, ["bench", "-o", ""], {"md", "json"}), (toy, ["bench", "--output", "j"], {"json"}),
                (toy, ["run", "--device", "=", "cu"], {"cuda"}), (toy, ["run", "--device", "="], {"cpu", "cuda"}),
                (toy, ["run", "-p", ""], set()), (toy, ["ppl", ""], files), (toy, ["ppl", "two"], {"two words.txt"}),
                (toy, ["run", "--weights", "fo"], {"folder"}), (toy, ["completion", "z"], {"zsh"}), (toy, ["-"], {"--help"}),
                (pfqc, ["doc", "o"], {"ops"}), (pfqc, ["folder", "--dump-dir", ""], {"folder"}), (pfqc, ["fo"], {"folder"}),
                (pfqc, ["two words.txt", "--eff"], {"--effort"}), (pfqc, ["x", "--effort", ""], {"fast", "full"})]:
            self.assertEqual(self.candidates("bash", p, *words), want, words)

    @needs("fish")
    def test_fish(self):
        self.every("fish")
        toy, pfqc = PROGRAMS
        for p, words, want in [(toy, ["bench", "-o", ""], {"md", "json"}), (toy, ["run", "--device=cu"], {"--device=cuda"}),
                               (toy, ["ppl", "fo"], {"folder"}), (toy, ["completion", "z"], {"zsh"}), (toy, ["b"], {"bench"}),
                               (pfqc, ["doc", "o"], {"ops"}), (pfqc, ["folder", "--effort", "f"], {"fast", "full"})]:
            self.assertEqual(self.candidates("fish", p, *words), want, words)

    @needs("zsh")
    def test_zsh(self):
        self.every("zsh")
        for p in PROGRAMS:
            out("zsh", "-n", self.script(p, "zsh"))


if __name__ == "__main__":
    unittest.main(verbosity=1)
