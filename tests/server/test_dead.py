"""A server whose GPU fails tells the truth: test_dead.py BUILD_DIR of tests/runtime. Every call of the stub driver fails in turn
(every 3rd; all with PFQC_TEST_FULL=1): a start that fails is one sentence; later, requests are answered in full or with
503, /health is 503 within a second of the loss and stays so, and SIGTERM still ends the program well."""
import json
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "runtime"))
import test_api
import test_cuda

STEP = 1 if os.environ.get("PFQC_TEST_FULL") else 3
ASK = {"prompt": "Hi", "max_tokens": 10, "temperature": 0}


class Dead(unittest.TestCase):
    def serve(self, fail):
        """The statuses of four requests; None: it did not start."""
        env = {**test_cuda.STUB, "PFQ_STUB_FAIL": fail}
        try:
            server = test_api.Server(exe=test_cuda.GPU, env=env)
        except AssertionError as e:
            line, message = e.args[0]
            self.assertEqual((line, message.count(b"\n")), ("", 1), (fail, message))
            self.assertIn(b": error: ", message)
            return None
        with server as s:
            said = []
            for _ in range(4):
                status, text, _ = s.raw("/v1/completions", ASK)
                self.assertIn(status, [200, 503], (fail, text))
                said.append(status)
                if status == 200:
                    self.texts.add(json.loads(text)["choices"][0]["text"])
            end = time.time() + 1
            while 503 in said and s.raw("/health")[0] != 503:
                self.assertLess(time.time(), end, fail)
            if 503 in said:
                self.assertIn(fail.split(":")[1].encode(), s.raw("/health")[1])
                self.assertEqual(s.raw("/v1/completions", ASK)[0], 503)
            self.assertEqual(s.raw("/v1/models")[0], 200)
            self.assertEqual(said, sorted(said))  # what is lost stays so
            return said

    def test_every_call(self):
        self.texts = set()
        for error in ["LAUNCH_FAILED", "OOM"]:
            kinds, n = set(), 1
            while (r := self.serve("%d:%s" % (n, error))) != [200] * 4:
                kinds.add(str(r))
                n += STEP
                self.assertLess(n, 2000)
            self.assertIn("None", kinds)
            self.assertTrue(error == "OOM" or len(kinds) > 2, kinds)
        self.assertEqual(len(self.texts), 1)  # an answer is never half of one


if __name__ == "__main__":
    unittest.main(verbosity=2)
