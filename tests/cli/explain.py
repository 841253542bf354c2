"""Every error code: a command that is refused with it, and what `pfqc explain` says of it. explain.py ERRORS.def SAMPLE TMP

A case is how the sample model is changed (a function over its folder) and the command line after pfqc; what cannot be provoked
from outside is listed with the reason."""
import json
import os
import re
import shutil
import struct
import subprocess
import sys

ERRORS, SAMPLE, TMP = sys.argv[1:]
PFQC = os.environ["PFQC"]
IR = "pfir 1\nmodule @m\nfunc @f(%x: f32[T,8]) {\n  %y = silu %x : f32[T,8]\n  return %y\n}\n"
FILE = """pfir 1
module @m
file 0 "none.bin"
@w = tensor {enc = "q4_0", file = 0, offset = 0} : f32[4,8]
func @main(%tokens: i32[T], %pos: i32[T]) {
  %x = embedding %tokens, @w : f32[T,8]
  return %x
}
"""
CHECK = ["model.json", "--check"]
STOP = ["model.json", "--recipe", "w4a16", "--stop-after", "cse"]
INIT = ["init", ".", "-o", "new.json"]
NVRTC = {"PFQC_NVRTC": "/nonexistent"}


def edit(name, change):
    """change(document) of a JSON file; what it returns, if anything, is written instead."""
    def apply():
        d = json.load(open(name))
        json.dump(change(d) or d, open(name, "w"))
    return apply


def text(name, s):
    return lambda: open(name, "w").write(s)


def both(*steps):
    return lambda: [s() for s in steps]


def sub(name, old, new):
    def apply():
        s = open(name).read()
        assert old in s, (name, old)
        open(name, "w").write(s.replace(old, new))
    return apply


def tensors(change):
    """change(header) of the safetensors file; the data stay."""
    def apply():
        raw = open("model.safetensors", "rb").read()
        n = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8:8 + n])
        change(header)
        new = json.dumps(header).encode()
        open("model.safetensors", "wb").write(struct.pack("<Q", len(new)) + new + raw[8 + n:])
    return apply


def rename(header):
    header["model.strange.weight"] = header.pop("model.norm.weight")


def extra(header):
    end = max(t["data_offsets"][1] for t in header.values() if "data_offsets" in t)
    header["model.strange.weight"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


def strange_type(header):
    for t in header.values():
        if t.get("dtype"):
            t["dtype"] = "C64"


model = lambda change: edit("model.json", change)
opt = lambda passes: ["opt", "in.pfir", "--passes", passes]

CASES = {
    "E0101": (text("model.json", '{"pfqc": 1,}'), CHECK),
    "E0102": (model(lambda d: d.update(name=7)), CHECK),
    "E0103": (model(lambda d: d.pop("dims") and None), CHECK),
    "E0104": (model(lambda d: d.update(weihgts=1)), CHECK),
    "E0105": (model(lambda d: d.update(name="a/b")), CHECK),
    "E0106": (sub("model.json", '"op": "silu"', '"op": "swish"'), CHECK),
    "E0107": (model(lambda d: d["dims"].update(kv_heads=3)), CHECK),
    "E0108": (model(lambda d: d.update(pfqc=99)), CHECK),
    "E0110": (edit("config.json", lambda d: d.update(model_type="rwkv", architectures=["Rwkv"])), INIT),
    "E0111": (edit("config.json", lambda d: d.update(hidden_act="relu")), INIT),
    "E0201": (text("model.safetensors", "no checkpoint at all"), CHECK),
    "E0202": (tensors(rename), CHECK),
    "E0203": (model(lambda d: d["dims"].update(ffn=256)), CHECK),
    "E0204": (tensors(strange_type), CHECK),
    "E0205": (tensors(extra), INIT),
    "E0301": (edit("tokenizer.json", lambda d: d["model"]["vocab"].update(strange=99999999)), STOP),
    "E0302": (edit("tokenizer.json", lambda d: d["model"].update(type="WordPiece")), STOP),
    "E0303": (both(text("t.jinja", "{% if x %}"), model(lambda d: d.update(chat_template="t.jinja"))), STOP),
    "E0304": (both(text("t.jinja", "{% include 'x' %}"), model(lambda d: d.update(chat_template="t.jinja"))), STOP),
    "E0401": (text("in.pfir", "pfir 1\nmodule m"), ["opt", "in.pfir"]),
    "E0402": (text("in.pfir", IR.replace("silu %x : f32[T,8]", "silu %x : f32[T,9]")), ["opt", "in.pfir"]),
    "E0403": (both(text("none.bin", "1234"), text("in.pfir", FILE)), opt("cse") + ["--verify-numerics"]),
    "E0501": (text("in.pfir", IR), opt("no-such-pass")),
    "E0502": (text("in.pfir", IR), opt("layout")),
    "E0503": (text("in.pfir", IR), opt("cse") + ["--verify-numerics"]),
    "E0504": (text("r.json", "[]"), CHECK + ["--recipe", "./r.json"]),
    "E0505": (text("short.txt", "Once"), ["model.json", "--recipe", "prefixquant-w8a8kv8", "--calibration", "short.txt", "--cache", "c", "--stop-after", "memory"]),
    "E0506": (None, ["model.json", "--passes", "quantize-weights{bits=8,sym,only=layers},merge-linears", "--stop-after", "merge-linears"]),
    "E0601": (None, CHECK + ["--target", "cpu:z80"]),
    "E0602": (None, ["model.json", "--passes", "phases,fuse,memory", "-o", "out"]),
    "E0603": "LLVM would have to refuse what pfqc gives it; tests/unit/test_specialise.c gives it something else",
    "E0604": (None, ["model.json", "--recipe", "float", "-o", "out"], {"PFQC_CC": "/bin/false"}),
    "E0605": (None, CHECK + ["--target", "cuda:sm_90a"], NVRTC),
    "E0701": (None, ["none.json"]),
    "E0702": (None, ["inspect", "model.json", "-o", "none/page.html"]),
    "E0703": (None, ["model.json", "--no-such-option"]),
    "E0704": (model(lambda d: d["dims"].update({f"d{i}": 1 for i in range(100000)})), CHECK),
}

codes = re.findall(r'^X\(E_\w+, "(E\d+)", "((?:[^"\\]|\\.)*)"\)$', open(ERRORS).read(), re.M)
assert len(codes) == len(set(c for c, _ in codes)) == len(CASES), sorted(set(CASES) ^ {c for c, _ in codes})
bad = []
for code, long_form in codes:
    said = subprocess.run([PFQC, "explain", code], capture_output=True, text=True)
    if said.returncode or said.stdout != f"{code}: " + long_form.replace('\\"', '"').replace("\\\\", "\\") + "\n" or len(long_form) < 30:
        bad.append((code, "explain", said))
    if isinstance(CASES[code], str):
        continue
    prepare, args, *env = CASES[code]
    shutil.rmtree(TMP + "/case", ignore_errors=True)
    shutil.copytree(SAMPLE, TMP + "/case")
    os.chdir(TMP + "/case")
    if prepare:
        prepare()
    got = subprocess.run([PFQC, *args], capture_output=True, text=True, env={**os.environ, **(env[0] if env else {})})
    want = 2 if code == "E0703" else 1
    if got.returncode != want or f"error[{code}]" not in got.stderr:
        bad.append((code, args, got.returncode, got.stderr[-300:]))
for b in bad:
    print(*b)
sys.exit(bool(bad))
