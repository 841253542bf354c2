"""Is standard input a form of pfqc inspect as docs/inspect.md says? inspect_forms.py json|dot WHAT"""
import json
import re
import sys

form, what = sys.argv[1:]
text = sys.stdin.read()
compiled = not what.endswith(("model.json", "model", ".safetensors"))


def check_json():
    d = json.loads(text)
    assert d["inspect"] == 1 and d["source"] in ("out", "pfir", "model"), d["source"]
    assert (d["plan"] is not None) == (d["source"] == "out") == (d["passes"] is not None), what
    assert d["meta"]["layers"] == 2 and d["constants"], d["meta"]
    names = {"prefill", "logits", "decode"} if compiled else {"main"}
    assert {f["name"] for f in d["functions"]} == names, names
    for f in d["functions"]:
        n = len(f["nodes"])
        assert [x["id"] for x in f["nodes"]] == list(range(1, n + 1)) and all(x["ops"] for x in f["nodes"]), f["name"]
        assert f["edges"] and all(0 <= e["from"] <= n and 0 <= e["to"] <= n and e["type"] for e in f["edges"]), f["name"]
        assert sum(a["nodes"] * a["times"] for a in f["alike"]) == n, f["alike"]
        for e in f["edges"]:  # a value is named by an op of the kernel it comes from, and of the one it goes to
            for end, at in (("from", e["from"]), ("to", e["to"])):
                assert not at or any(re.search(re.escape(e["value"]) + r"\b", op) for op in f["nodes"][at - 1]["ops"]), (end, e)
            assert ("scale" in e) == e["type"].startswith(("s8[", "s16[")), e
    kernels = {x["kernel"] for f in d["functions"] for x in f["nodes"]}
    assert ("linear.s8.qkv" if compiled else "linear") in kernels, kernels


def check_dot():
    assert text.startswith("digraph ") and text.count("{") == text.count("}"), text[:80]
    nodes = set(re.findall(r"^ +(f\d+_\d+) \[label", text, re.M))
    edges = re.findall(r'^  (f\d+_\d+) -> (f\d+_\d+) \[(?:style=dashed )?label="([^"]*)"\]$', text, re.M)
    assert nodes and edges and {n for e in edges for n in e[:2]} <= nodes, "edges between nodes that are there"
    assert len(re.findall(r"->", text)) == len(edges), "edges of another form"
    assert all(re.search(r"[a-z]\d+\[", e[2]) for e in edges), "types"
    assert not compiled or any(" x 0.0" in e[2] for e in edges), "scales"


{"json": check_json, "dot": check_dot}[form]()
