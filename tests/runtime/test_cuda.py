"""Drives the toy model on a GPU that the stub driver pretends to be: test_cuda.py BUILD_DIR.

fake_cuda has code for CPU and GPU, fake_gpu for the GPU alone. The stub (tests/cuda/stub_driver.c) ends a program with
status 70 that misuses it or leaves something unreleased, so every run here checks that too."""
import json
import os
import tempfile
import unittest

import test_cli as cli

BOTH, GPU, CPU = (os.path.join(cli.HERE, name) for name in ("fake_cuda", "fake_gpu", "fake_model"))
STUB = {"PFQC_CUDA_DRIVER": os.path.join(cli.HERE, "libstub_driver.so"),
        "PFQ_STUB_KERNELS": os.path.join(cli.HERE, "libfake_kernels.so")}
ERRORS = {"OOM": "CUDA_ERROR_OUT_OF_MEMORY", "NO_BINARY_FOR_GPU": "CUDA_ERROR_NO_BINARY_FOR_GPU",
          "LAUNCH_FAILED": "CUDA_ERROR_LAUNCH_FAILED", "ILLEGAL_ADDRESS": "CUDA_ERROR_ILLEGAL_ADDRESS"}
STAY = {"LAUNCH_FAILED", "ILLEGAL_ADDRESS"}


def run(*args, exe=GPU, **stub):
    """Keywords are settings of the stub: devices=0 is PFQ_STUB_DEVICES=0."""
    env = {("PFQ_STUB_" if k.islower() else "") + k.upper(): str(v) for k, v in stub.items()}
    return cli.run(*args, exe=exe, env={**STUB, **env})


class Cuda(unittest.TestCase):
    def ok(self, *args, **kw):
        r = run(*args, **kw)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout.decode()

    def fails(self, *args, **kw):
        r = run(*args, **kw)
        self.assertEqual(r.returncode, 1, (args, kw, r.stderr))
        message = r.stderr.decode()
        self.assertEqual(message.count("\n"), 1, message)
        self.assertIn(": error: ", message)
        return message

    def info(self, **kw):
        return dict(line.split(": ", 1) for line in self.ok("info", **kw).strip().split("\n"))

    # ---- the same results as on the CPU ----

    def test_same_as_the_cpu(self):
        with tempfile.NamedTemporaryFile() as f:
            f.write(bytes(32 + i * i % 61 for i in range(300)).replace(b"N", b"~"))
            f.flush()
            ids = ",".join(str(i * 37 % 320) for i in range(19))
            for args in [["run", "-p", "Hi there"], ["run", "-p", "E"], ["run", "-p", "abcdefgh", "-c", "20"],
                         ["run", "-p", "x" * 41, "-n", "12"], ["run", "-p", "abc", "-n", "0"],
                         ["run", "-p", "abc", "-n", "20", "--temp", "1.5", "--seed", "3"],
                         ["logits", "--tokens", ids, "--all"], ["logits", "--tokens", ids, "--all", "--decode"],
                         ["logits", "--tokens", "1,78"], ["ppl", f.name, "-c", "17"]]:
                want = cli.run(*args, exe=CPU)
                self.assertEqual(want.returncode, 0, want.stderr)
                for kw in [{}, {"graphs": 0}, {"capability": 86}, {"exe": BOTH}]:
                    self.assertEqual(self.ok(*args, **kw), want.stdout.decode("utf-8"), (args, kw))
                self.assertEqual(self.ok(*args, "--cuda-sync"), want.stdout.decode("utf-8"), args)

    def test_tokens_are_chosen_there(self):
        """The same text whoever chooses; some draws are the host's (FAKE_ASK), or all."""
        for args in [[], ["--temp", "1.5", "--seed", "3"], ["--temp", "1", "--top-k", "0", "--top-p", "1", "--min-p", "0"],
                     ["--temp", "2", "--top-k", "0", "--top-p", "0.8", "--min-p", "0"], ["-c", "12"], ["-n", "1"]]:
            args = ["run", "-p", "abcdef", "-n", "30", *args]
            want = cli.run(*args, exe=CPU)
            for kw in [{}, {"graphs": 0}, {"FAKE_ASK": 1}, {"FAKE_ASK": 3}, {"FAKE_ASK": 3, "graphs": 0}]:
                r = run(*args, **kw)
                self.assertEqual((r.returncode, r.stdout), (0, want.stdout), (args, kw))
                self.assertNotIn(b"by the host", r.stderr)
        r = run("run", "-p", "abcdef", "-n", "5", "--temp", "1", "--top-k", "1025")  # the toy's vocabulary is smaller: all
        self.assertNotIn(b"by the host", r.stderr)
        # three tokens ask the GPU for three, one of them without a step
        _, calls = self.calls(["run", "-p", "abcdef", "-n", "3"])
        self.assertEqual(calls.count("cuGraphLaunch"), 2)

    def test_nan_is_told(self):
        self.assertIn("not finite", self.fails("run", "-p", "N"))

    def test_bench(self):
        rows = json.loads(self.ok("bench", "-p", "20", "-n", "10", "-r", "2", "-o", "json"))
        for r in rows:
            self.assertEqual([r["backend"], r["variant"], r["device"]], ["CUDA", "sm_90a", "Stub 0"])
            self.assertGreater(r["tok_s"], 0)
            self.assertGreater(r["copy_gb_s"], 0)
            s = r["samples_s"]
            self.assertAlmostEqual(r["ms"] * (r["n_gen"] or 1) / 1e3, sum(s) / len(s), 6)
        self.assertIn("on CUDA sm_90a, Stub 0;", self.ok("bench", "-p", "4", "-n", "4", "-r", "1"))
        # a copy needs memory for two buffers
        rows = json.loads(self.ok("bench", "-p", "20", "-n", "0", "-r", "1", "-o", "json", memory=2))
        self.assertIsNone(rows[0]["copy_pct"])
        self.assertEqual(rows[0]["copy_gb_s"], 0)

    def test_bench_batch(self):
        args = ["bench", "-p", "0", "-n", "5", "-d", "7", "-r", "2"]
        for graphs in 0, 1:
            table = self.ok(*args, "-b", "3", graphs=graphs)
            self.assertIn("| tg5 b3 @ d7 |", table)
        self.assertIn("up to 3 together", self.fails(*args, "-b", "4"))
        r = cli.run("bench", "-p", "2", "-n", "2", "--per-kernel", exe=CPU)
        self.assertEqual(r.returncode, 1)
        self.assertIn("for GPUs", r.stderr.decode())

    def test_bench_kernels(self):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "trace.json")
            table = self.ok("bench", "-p", "10", "-n", "5", "-r", "2", "-b", "2", "--per-kernel", "--trace", path)
            self.assertEqual(sum(line.startswith("| append | 1 |") for line in table.split("\n")), 2)
            self.assertEqual(sum(line.startswith("| head | 1 |") for line in table.split("\n")), 1)
            events = self.slices(path)
            self.assertEqual([e["name"] for e in events], ["append", "hash", "prefill", "append", "hash", "head", "batch"])
            for e in events:
                self.assertAlmostEqual(e["dur"], {"prefill": 2, "batch": 3}.get(e["name"], 1), 3)

    def slices(self, path):
        with open(path) as f:
            return [e for e in json.load(f)["traceEvents"] if e["ph"] == "X"]

    def test_trace(self):
        """Every launch, with the ops as the IR has them; what is computed is the same."""
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "trace.json")
            for exe in BOTH, GPU:
                self.assertEqual(self.ok("run", "-p", "ab", "-n", "6", "--trace", path, exe=exe), self.ok("run", "-p", "ab", "-n", "6"))
                slices = self.slices(path)
                seen = [(e["cat"], e["args"]["pos"], e["name"], e["args"].get("kernel"), e["args"].get("ops")) for e in slices]
                append, hashed, head = ("append", "append", "%kv kv_append"), ("hash", "hash", '%h "%last"'), ("head", "head", "%logits")
                want = [("prefill", 0, *c) for c in [append, hashed, ("prefill", None, None)]]
                want += [("logits", 0, *c) for c in [head, ("logits", None, None)]]
                want += [("decode", pos, *c) for pos in range(2, 7) for c in [append, hashed, head, ("decode", None, None)]]
                self.assertEqual(seen, want)
            self.ok("logits", "--tokens", ",".join("7" * 19), "--all", "--trace", path)
            self.assertEqual([e["args"]["rows"] for e in self.slices(path) if e["name"] == "prefill"], [8, 8, 3])
            self.assertIn("of --trace", run("run", "-p", "x", "--trace", path).stderr.decode())
            for n in range(1, 400, 7):  # each call of the driver fails
                r = run("run", "-p", "ab", "-n", "3", "--trace", path, fail="%d:LAUNCH_FAILED" % n)
                self.assertEqual(r.returncode, 1 if b"error: " in r.stderr else 0, (n, r.stderr))
            self.assertEqual(r.returncode, 0)

    def test_self_test(self):
        both = self.ok("self-test", exe=BOTH)
        self.assertIn("sm_90a decode: ok", both)
        self.assertEqual(both.count("sm_90a batch: ok"), 3)
        self.assertIn("plain decode: ok", both)
        self.assertNotIn("sm_90a", self.ok("self-test", "--device", "cpu", exe=BOTH))
        self.assertNotIn("plain", self.ok("self-test", "--device", "cuda", exe=BOTH))
        self.assertNotIn("sm_90a", self.ok("self-test", "--cpu", "plain", exe=BOTH))
        self.assertIn("cuda: not tested, no GPU", self.ok("self-test", exe=BOTH, devices=0))
        self.assertIn("sm_90a prefill: ok", self.ok("self-test"))
        self.assertIn("self-test failed: with variant sm_90a, prefill", self.fails("self-test", FAKE_WRONG_EXPECT=1))
        self.assertIn("no GPU", self.fails("self-test", devices=0))

    # ---- which device, which code ----

    def test_choice_of_the_device(self):
        def where(*args, **kw):
            r = run("run", "-p", "abc", "-n", "1", *args, **kw)
            self.assertEqual(r.returncode, 0, r.stderr)
            return r.stderr.decode().strip().rsplit("; ", 1)[1]

        self.assertEqual(where(exe=BOTH), "Stub 0, sm_90a")
        self.assertEqual(where("--cuda-device", "1", exe=BOTH, devices=2), "Stub 1, sm_90a")
        self.assertEqual(where(exe=BOTH, devices=2, PFQC_CUDA_DEVICE=1), "Stub 1, sm_90a")
        self.assertEqual(where("--device", "cpu", exe=BOTH), "1 threads, fast")
        self.assertEqual(where("--cpu", "plain", exe=BOTH), "1 threads, plain")
        self.assertEqual(where(exe=BOTH, PFQC_DEVICE="cpu"), "1 threads, fast")
        for kw in [{"devices": 0}, {"driver": 11000}, {"capability": 75}, {"PFQC_CUDA_DRIVER": "/none"}]:
            self.assertEqual(where(exe=BOTH, **kw), "1 threads, fast")
        self.assertIn("has no CUDA code", self.fails("run", "-p", "a", "--device", "cuda", exe=CPU))
        self.assertIn("no code for the CPU", self.fails("run", "-p", "a", "--device", "cpu"))
        self.assertIn("no code for the CPU", self.fails("run", "-p", "a", "--cpu", "plain"))

    def test_choice_of_the_code(self):
        for capability, target in [(80, "sm_80"), (86, "sm_86"), (87, "sm_86"), (89, "sm_86"), (90, "sm_90a"),
                                   (100, "compute_80"), (121, "compute_80")]:
            self.assertEqual(self.info(capability=capability)["gpu code"], target)
        self.assertEqual(self.info()["targets"], "sm_90a sm_86 compute_80 sm_80")
        self.assertEqual(self.info(exe=BOTH)["targets"], "never fast plain sm_90a sm_86 compute_80 sm_80")
        self.assertEqual(self.info()["gpu"], "Stub 0 (sm_90, 1024 MiB)")
        self.assertIn("not usable: no GPU", self.info(devices=0)["gpu"])
        self.assertEqual(self.info(PFQC_CUDA_CODE="compute_80")["gpu code"], "compute_80")
        self.assertEqual(self.info(PFQC_CUDA_CODE="compute_80", capability=86)["gpu code"], "compute_80")
        self.assertIn("no sm_86 code for the GPU 'Stub 0' (sm_90)", self.info(PFQC_CUDA_CODE="sm_86")["gpu"])
        self.assertEqual(self.ok("run", "-p", "abc", "-n", "3", "--cuda-code", "compute_80"), self.ok("run", "-p", "abc", "-n", "3"))

    # ---- refusals, before any kernel ----

    def test_refusals(self):
        for kw, message in [
            ({"PFQC_CUDA_DRIVER": "/none"}, "no NVIDIA driver is found: /none"),
            ({"PFQC_CUDA_DRIVER": STUB["PFQ_STUB_KERNELS"]}, "the NVIDIA driver is too old: it has no cuGetErrorName"),
            ({"driver": 12040}, "the NVIDIA driver is too old: it supports CUDA 12.4, this program needs 12.8"),
            ({"devices": 0}, "no GPU is found"),
            ({"PFQC_CUDA_DEVICE": 2, "devices": 2}, "there is no GPU 2: the NVIDIA driver counts 0 to 1"),
            ({"capability": 75}, "no code for the GPU 'Stub 0' (sm_75); it has: sm_90a, sm_86, compute_80, sm_80"),
            ({"memory": 0}, "the GPU 'Stub 0' has too little free memory: with a context of 64 tokens 0.0 MiB are needed, "
                            "0.0 MiB are free"),
        ]:
            for exe in [GPU, BOTH]:
                with tempfile.NamedTemporaryFile() as log:
                    text = self.fails("run", "-p", "abc", "--device", "cuda", exe=exe, log=log.name, **kw)
                    self.assertIn(message, text)
                    self.assertNotIn(b"cuLaunchKernel", log.read())

    # ---- every call fails once ----

    def calls(self, args):
        with tempfile.NamedTemporaryFile() as log:
            out = self.ok(*args, log=log.name)
            return out, log.read().decode().split()

    def check_failure(self, args, n, calls, error, want):
        """Call n (from 0) fails: a sentence that names it, or, where there is another way or nothing is left to do, the
        same result."""
        call = calls[n]
        recording = range(calls.index("cuStreamBeginCapture_v2"), len(calls) - calls[::-1].index("cuGraphDestroy"))
        closing = len(calls) - 1 - calls[::-1].index("cuStreamSynchronize")
        may_fail = n in recording or call == "cuMemHostRegister_v2"
        quiet = n >= closing or (may_fail and error not in STAY)
        r = run(*args, fail=f"{n + 1}:{error}")
        text = r.stderr.decode()
        what = (n, call, error, text)
        if quiet:
            self.assertEqual([r.returncode, r.stdout.decode()], [0, want], what)
            return
        self.assertEqual([r.returncode, text.count("\n")], [1, 1], what)
        self.assertIn(ERRORS[error], text, what)
        if not may_fail:
            self.assertIn(f"error: {call} (", text, what)

    def test_every_call_fails_once(self):
        for args in [["run", "-p", "abcdefghij", "-n", "3"], ["logits", "--all", "--tokens", "1,2,3,4"]]:
            want, calls = self.calls(args)
            self.assertGreater(len(calls), 50)
            for n in range(len(calls)):
                for error in ERRORS:
                    self.check_failure(args, n, calls, error, want)


if __name__ == "__main__":
    unittest.main(verbosity=1)
