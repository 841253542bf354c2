"""A compiled program behind HTTP against its own commands: score.py PROGRAM TASKS FOLDER."""
import http.client
import json
import os
import signal
import subprocess
import sys
import threading

PROGRAM, TASKS, FOLDER = sys.argv[1:]


def ask(port, path, body):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    c.request("POST", path, json.dumps(body))
    r = c.getresponse()
    text = r.read()
    assert r.status == 200, text
    c.close()
    return json.loads(text)


def check_scores(port, name):
    """The log-likelihood of each continuation, from token ids, as lm-eval takes it."""
    log = os.path.join(FOLDER, "samples")
    subprocess.run([PROGRAM, "eval", os.path.join(TASKS, name), "--log-samples", log], check=True, capture_output=True)
    with open(log) as f:
        requests = [r for line in f for r in json.loads(line)["requests"]]
    for i in range(0, len(requests), 8):
        some = requests[i : i + 8]
        got = ask(port, "/v1/completions", {"prompt": [r["context"] + r["continuation"] for r in some], "max_tokens": 1, "logprobs": 1,
                                            "echo": True, "temperature": 0, "seed": 1234})
        for r, c in zip(some, got["choices"]):
            p, top = (c["logprobs"][k][len(r["context"]) : -1] for k in ["token_logprobs", "top_logprobs"])
            assert len(p) == len(r["continuation"])
            assert abs(sum(p) - r["loglik"]) <= 1e-5 * abs(r["loglik"]) + 1e-5, (name, sum(p), r["loglik"])
            assert all(a == max(b.values()) for a, b in zip(p, top)) == r["greedy"], name
    return len(requests)


def check_texts(port):
    """Alone, then all at once, twice: what slots hold from before changes nothing."""
    start = "Once upon a time there was a little girl who lived in a small house. One day "
    jobs = [{"prompt": start + t, "max_tokens": 12 + 3 * i, "temperature": 0.8 * (i % 2), "seed": i, "logprobs": 1}
            for i, t in enumerate(["she", "she saw", "her mom", "a big dog", "the sun", "it", "Lily", "they went", "she saw a bird", "rain"])]
    alone = [ask(port, "/v1/completions", j)["choices"] for j in jobs]
    for _ in range(2):
        got = [None] * len(jobs)

        def run(i):
            got[i] = ask(port, "/v1/completions", jobs[i])["choices"]

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert got == alone, [(a, b) for a, b in zip(got, alone) if a != b][0]  # log-probabilities too, to the last digit


def main():
    server = subprocess.Popen([PROGRAM, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        n = sum(check_scores(port, name) for name in ["arc_easy.jsonl", "cloze.jsonl"])
        check_texts(port)
        bos = ask(port, "/tokenize", {"prompt": ""})["tokens"][:1]
        p = ask(port, "/v1/completions", {"prompt": bos + [80, 1288], "max_tokens": 0, "logprobs": 0, "echo": True})["choices"][0]["logprobs"]
        assert [x is None for x in p["token_logprobs"]] == [True, False, False], p  # also behind a BOS that is the model's prefix
        print("%d log-likelihoods" % n)
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0


main()
