"""Is out/inspect.html whole HTML that needs nothing else and agrees with out/plan.json? inspect_page.py OUT [odd]"""
import html
import html.parser
import json
import os
import re
import sys

OUT, ODD = sys.argv[1], len(sys.argv) > 2
VOID = {"meta"}


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.text = [], {}, [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert len(attrs) == len(set(attrs)), tag
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [v for k, v in attrs.items() if k in ("href", "src")]
        assert not any(k.startswith("on") for k in attrs), attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text.append(data)


raw = open(OUT + "/inspect.html", encoding="utf-8").read()
plan = json.load(open(OUT + "/plan.json"))
page = Page()
page.feed(raw)
page.close()
assert page.open == [], page.open
assert len(page.ids) == len(set(page.ids)), "an id twice"
assert not {"script", "img", "link", "iframe"} & set(page.tags), page.tags
assert not re.search(r"https?:|url\((?!#)|@import", raw), "the page asks for something else"
for link in page.links:
    assert link[1:] in page.ids if link[0] == "#" else link.startswith(("src/kernels/", "src/cuda/")), link
    assert ODD or link[0] == "#" or os.path.exists(os.path.join(OUT, link)), link
for tag in re.findall(r"<(?:path|line|rect|circle|text)[^>]*>", raw):
    assert not re.search(r'="[^"]*(nan|inf)', tag), tag
text = "".join(page.text)
if ODD:
    assert plan["model"] in text and plan["recipe"] in text and plan["kernels"][0]["name"] in text
    sys.exit()

decode = plan["phases"]["decode"]["calls"]
layers = max(c["layer"] for c in decode) + 1
assert f"layers 0 to {layers - 1}, {layers} times the same" in text
shown = [c for c in decode if c["layer"] in (-1, 0)]
assert raw.count('<li class="call"') == len(shown), "boxes"
for c in shown:
    assert f'id="s{c["step"]}"' in raw, c
    for operand in c.get("in", []) + c["out"]:
        assert not isinstance(operand, list) or f"<code>{operand[3]}</code>" in raw, operand
changes = json.load(open(OUT + "/passes.json"))
assert changes["changes"] == 1 and [(p["pass"], p["options"], p["ops"]) for p in changes["passes"]] == [(p["pass"], p["options"], p["ops"]) for p in plan["passes"]]
for p in changes["passes"]:
    assert f'<b>{p["pass"]}</b>' in raw and f'{p["ops"]} ops' in text, p
    assert bool(p["edits"]) == bool(p["inserted"] + p["removed"] + p["changed"]), p
    for e in p["edits"]:
        assert e["lines"] and all(line[0] in "+-" and line[1:] in text for line in e["lines"]), e
        assert e["left_out"] or sum(line[0] == "+" for line in e["lines"]) == e["inserted"] + e["changed"], e
        assert sum(len(range(int(r.split("-")[0]), int(r.split("-")[-1]) + 1)) for r in e["layers"].split(",") if r) in (e["alike"], 0), e
assert next(p for p in changes["passes"] if p["pass"] == "fuse")["edits"][0]["lines"][0].startswith("+step "), "fuse makes steps"
alike = [e for p in changes["passes"] if p["pass"] == "static-scales" for e in p["edits"] if e["in"] == "constants"]
assert [e["layers"] for e in alike] == [f"0-{layers - 1}"], "layers that changed alike are told once"
assert raw.count('class="kernel ') == len(shown), "kernels of the drawings"
charts = re.findall(r'<svg[^>]* aria-label="([^"]+)">(.*?)</svg>', raw, re.S)
assert len(charts) == raw.count("<svg"), "a chart without a name"


def chart(name):
    return next(body for n, body in charts if html.unescape(n).startswith(name))


def titles(name, shape):
    """What the marks of a chart say; its names at the right have no title."""
    return [html.unescape(t) for t in re.findall(f"<{shape} [^>]*><title>([^<]*)</title>", chart(name))]


def attributes(tag):
    return {k: float(v) for k, v in re.findall(r' (x|y|width|height)="([^"]*)"', tag)}


for phase, p in plan["phases"].items():  # memory: every value of the first layers, no two in one place at one time
    body = chart(f"Activations of {phase} over its {len(p['calls'])} calls")
    told = titles(f"Activations of {phase} ", "rect")
    values = [(r[3], i) for i, c in enumerate(p["calls"]) for r in c["out"] if isinstance(r, list) and r[0] == "act"]
    assert 0 < len(told) <= len(values) and {t.split(", ")[0] for t in told} <= {v[0] for v in values}, (phase, told)
    for what, i in values:
        assert p["calls"][i]["layer"] > 0 or any(t.startswith(what + ", ") and f"written by call {i} " in t for t in told), (phase, what, i)
    boxes = [attributes(b) for b in re.findall(r'<rect class="box[^>]*>', body)]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"]) < 0.05 or \
                min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"]) < 0.6, (phase, a, b)
for c in shown:  # a scale stands beside integers
    for operand in c.get("in", []) + c["out"]:
        if isinstance(operand, list) and operand[3].startswith(("s8[", "s16[")):
            assert re.search(re.escape(f"<code>{operand[3]}</code> ") + "\u00d7 [0-9o]", raw), operand
busy = {k["name"] for k in plan["kernels"] for c in decode if c["kernel"] == k["name"] and c.get("flops_per_row", 1)}
assert len(titles("operations a byte", "circle")) == 2 * len(busy), busy
by_layer = lambda facts: {"%s, layer %s" % tuple(k.split(".")) for k in facts if not k.startswith("w.")}
measured = plan["sqnr"]
assert measured and {t.split(":")[0] for t in titles("Activations, keys and values: SQNR", "circle")} == by_layer(measured)
assert {t.split(":")[0] for t in titles("Scales of", "circle")} == by_layer(measured), "a scale for each of them"
assert {t.split(":")[0] for t in titles("Largest to median", "circle")} == by_layer(plan["outlier"])
rows = titles("Types of weights", "rect")
assert f"keys in the cache, layer 0 to {layers - 1}: s8" in rows and all(r.endswith(": s8") for r in rows) and len(rows) == 10, rows
for when in ["before", "after"]:  # tokens: the largest of each layer and those far out, by name
    want = [(k.split(".")[1], i) for k, top in plan["outlier_tokens"].items() if k.startswith(when) for j, i in enumerate(top) if not j or i[0] >= 8]
    seen = titles(when.title() + ":", "circle")
    assert len(want) == len(seen), (want, seen)
    for layer, (ratio, token, sequence, position) in want:
        name = json.dumps(plan["token_text"][str(token)], ensure_ascii=False)
        assert f"{name}, token {position} of sequence {sequence}, layer {layer}: {ratio:.4g} token / median" in seen, (name, seen)
    assert 'class="shade ' in chart(when.title() + ":"), when
for k, bins in plan["outlier_bins"].items():
    top = plan["outlier_tokens"][k]
    assert len(bins) == 40 and sum(bins) == 64 and len(top) == 8 and abs(top[0][0] / plan["outlier"][k] - 1) < 1e-3, k
    assert [t[0] for t in top] == sorted((t[0] for t in top), reverse=True), k
    assert sum(n for i, n in enumerate(bins) if 2 ** ((i - 8) / 2) >= top[0][0]) == 0, (k, bins)
assert {k.split(".")[0] for k in plan["outlier"]} == {"before", "after"}, plan["outlier"]
drawings = len({c["layer"] for c in shown}) + (shown[0]["layer"] < 0)  # in front of the layers, a layer, behind them
assert page.tags["svg"] == 10 + drawings + any(k.startswith("w.") for k in plan["sqnr"]), page.tags
for k in plan["kernels"]:
    assert f'id="k-{k["name"]}"' in raw, k
for k in plan["kernels"]:  # from the source of a kernel to steps and layers, as the page's table has them
    calls = [c for c in decode if c["kernel"] == k["name"]]
    if not calls or not os.path.isdir(OUT + "/src/kernels"):
        continue
    source = open(f"{OUT}/src/kernels/{k['name']}.c").read()
    where = re.search(r"^ \* In @decode, (?:(\d+) times(?: in layers? (\d+)(?: to (\d+))?)?, first )?step (\d+): (.*)\n \*   ", source, re.M)
    row = re.search(f'<tr id="k-{k["name"]}">.*?<a href="#s(\\d+)">', raw)
    assert where and int(where[1] or 1) == len(calls) and int(where[4]) == calls[0]["step"] == int(row[1]), (k, where)
    inside = [c["layer"] for c in calls if c["layer"] >= 0]
    assert len(calls) == 1 or not inside or (int(where[2]), int(where[3] or where[2])) == (min(inside), max(inside)), where
size = {}
for s in plan["weights"]["sections"]:
    size[s["layout"]] = size.get(s["layout"], 0) + s["bytes"]
assert all(layout in text for layout in size), size
print("a page of", len(raw), "bytes")
