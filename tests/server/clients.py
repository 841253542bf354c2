"""Real clients over a compiled program: clients.py PROGRAM TASKS FOLDER. openai: models, text, streams, log-probabilities, errors.
lm-eval: local-completions with the tokens of our routes alone; its scores are those of PROGRAM eval."""
import glob
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import openai

PROGRAM, TASKS, FOLDER = sys.argv[1:]
PROMPT = "Once upon a time"
TASK = """task: pfqc_%(name)s
dataset_path: json
dataset_kwargs: {data_files: {test: %(file)s}}
test_split: test
output_type: multiple_choice
doc_to_text: "%(bos)s{{query}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
target_delimiter: " "
metric_list: [{metric: acc}, {metric: acc_norm}]
"""


def run(*args):
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True, check=True).stdout


def check_openai(c, model):
    assert [m.id for m in c.models.list()] == [model] == [c.models.retrieve(model).id]
    want = run("run", "-p", PROMPT, "-n", "24")[:-1]
    ask = dict(model=model, prompt=PROMPT, max_tokens=24, temperature=0)
    whole = c.completions.create(**ask, logprobs=3)
    assert whole.choices[0].text == want, (whole.choices[0].text, want)
    assert whole.usage.completion_tokens == 24 and whole.choices[0].finish_reason == "length"
    probs = whole.choices[0].logprobs
    assert "".join(probs.tokens) == want and all(p <= 0 for p in probs.token_logprobs)
    assert all(max(t.values()) == p for t, p in zip(probs.top_logprobs, probs.token_logprobs))
    assert [want.index(t, i) for t, i in zip(probs.tokens, probs.text_offset)] == probs.text_offset
    parts = list(c.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(p.choices[0].text for p in parts[:-1]) == want and parts[-1].usage.total_tokens == whole.usage.total_tokens
    seeded = [c.completions.create(**{**ask, "temperature": 1, "seed": 7, "n": 2}) for _ in range(2)]
    assert [x.text for x in seeded[0].choices] == [x.text for x in seeded[1].choices]
    for fields, error, param in [(dict(temperature=-1), openai.BadRequestError, "temperature"), (dict(best_of=3), openai.BadRequestError, "best_of"),
                                 (dict(model="other"), openai.NotFoundError, "model"), (dict(max_tokens=100000), openai.BadRequestError, "max_tokens")]:
        try:
            c.completions.create(**{**ask, **fields})
            assert False, fields
        except error as e:
            assert e.param == param, (e.param, fields)
    try:
        c.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}])
        assert False, "a chat without a template"
    except openai.BadRequestError as e:
        assert e.param == "messages"
    try:
        openai.OpenAI(base_url=str(c.base_url), api_key="wrong", max_retries=0).models.list()
        assert False, "a wrong token"
    except openai.AuthenticationError:
        pass
    with c.completions.create(**{**ask, "max_tokens": 400}, stream=True) as stream:
        next(iter(stream))  # and leaves


def scores(names, url, key):
    """lm-eval's of all examples: task -> (acc, acc_norm)."""
    out = os.path.join(FOLDER, "scores")
    args = "model=tinystories,base_url=%s/v1/completions,tokenizer_backend=remote,auth_token=%s,num_concurrent=4,max_length=512" % (url, key)
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": os.path.join(FOLDER, "hf"), "OPENAI_API_KEY": key}
    r = subprocess.run([sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", args, "--tasks",
                        ",".join("pfqc_" + n for n in names), "--include_path", FOLDER, "--output_path", out], env=env, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-4000:]
    with open(glob.glob(out + "/**/*.json", recursive=True)[0]) as f:
        got = json.load(f)["results"]
    return {n: (got["pfqc_" + n]["acc,none"], got["pfqc_" + n]["acc_norm,none"]) for n in names}


def check_lm_eval(url, key, bos):
    names = ["arc_easy", "piqa"]
    path = {n: os.path.join(TASKS, n + ".jsonl") for n in names}
    for n in names:
        with open(os.path.join(FOLDER, n + ".yaml"), "w") as f:
            f.write(TASK % {"name": n, "file": path[n], "bos": bos})
    got = scores(names, url, key)
    for n in names:
        want = re.search(r"^acc (\S+) acc_norm (\S+) n", run("eval", path[n]), re.M).groups()
        assert tuple("%.4f" % x for x in got[n]) == want, (n, got[n], want)


def beginning(url, key):
    """What lm-eval, which asks for tokens without BOS, must write in front of a text to have the tokens that it has with BOS."""
    def ask(path, body=None):
        q = urllib.request.Request(url + path, body and json.dumps(body).encode(), {"Authorization": "Bearer " + key})
        return json.load(urllib.request.urlopen(q))

    info = ask("/tokenizer_info")
    want = ask("/tokenize", {"prompt": "Question"})["tokens"]
    starts = ["", info["bos_token"] or "", (info["bos_token"] or "") + " "]
    return next(s for s in starts if ask("/tokenize", {"prompt": s + "Question", "add_special_tokens": False})["tokens"] == want)


def main():
    key = "a key"
    server = subprocess.Popen([PROGRAM, "serve", "--port", "0", "--api-key", key], stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split()[-1]
        c = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
        check_openai(c, "tinystories")
        check_lm_eval(url, key, beginning(url, key))
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0


main()
