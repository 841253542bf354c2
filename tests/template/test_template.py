#!/usr/bin/env python3
"""Chat templates against jinja2. usage: test_template.py TPL_TOOL golden|refused|oracle [FOLDER of PyPI packages]

golden   prompts of tests/data/templates, kept in golden.json (needs no jinja2)
refused  what the parser refuses, and where; limits of a render
oracle   jinja2 on expressions, random templates, and the real templates that the package trl carries; exit status 77
         if jinja2 is not installed
"""
import json
import os
import pathlib
import random
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ["TZ"] = "UTC"
import cases  # noqa: E402

TOOL = sys.argv[1]
DATA = HERE.parent / "data/templates"


def render(batch):
    """The tool's answers to (template, context, limits...) cases."""
    lines = "".join(json.dumps({"now": cases.NOW, **case}, ensure_ascii=False) + "\n" for case in batch)
    run = subprocess.run([TOOL, "render"], input=lines.encode(), capture_output=True)
    if run.returncode:
        sys.exit(f"tpl_tool ended with {run.returncode}: {run.stderr.decode()[-2000:]}")
    answers = [json.loads(line) for line in run.stdout.decode().split("\n")[:-1]]
    return [next(iter(a.items())) for a in answers]


def compare(what, batch, expected):
    """Same text, or an error on both sides."""
    bad = 0
    for case, got, want in zip(batch, render(batch), expected):
        if got == want or (want[0] == "error" and got[0] != "text"):
            continue
        bad += 1
        if bad <= 5:
            print(f"{what}: {case['template'][:300]!r}\n  context {str(case['context'])[:300]}\n  jinja2 {want}\n  pfqc   {got}")
    return bad


def golden():
    bad = n = 0
    for name, prompts in json.loads((DATA / "golden.json").read_text()).items():
        source = (DATA / name).read_text()
        batch = [{"template": source, "context": context} for _, context in cases.contexts()]
        expected = [("text", prompts[label]) if prompts[label] is not None else ("error", "") for label, _ in cases.contexts()]
        bad += compare(name, batch, expected)
        n += len(batch)
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    got = render([{"template": named, "context": {"tools": t}} for t in (None, cases.TOOLS)])
    bad += got != [("text", "plain"), ("text", "with tools")]
    print(f"{n} prompts, {bad} wrong")
    return bad


REFUSED = [  # template, line:column, code, words
    ("{{ a | fooo }}", "1:8", "E0304", "the filter 'fooo' is not supported"),
    ("a\n{% if x %}\n{{ x is odd2 }}{% endif %}", "3:9", "E0304", "the test 'odd2' is not supported"),
    ("{{ x is none(1) }}", "1:9", "E0303", "takes 0 arguments, not 1"),
    ("{{ x | upper(1) }}", "1:8", "E0303", "at most 0 arguments"),
    ("{{ x | map('nix') }}", "1:17", "E0304", "the filter 'nix'"),
    ("{{ x | selectattr('a', 'nix') | list }}", "1:29", "E0304", "the test 'nix'"),
    ("{{ list.append(1) }}", "1:9", "E0304", "the method 'append'"),
    ("{{ cycler(1) }}", "1:4", "E0304", "the function 'cycler'"),
    ("{% include 'x' %}", "1:4", "E0304", "this statement"),
    ("{% extends 'x' %}", "1:4", "E0304", "this statement"),
    ("{% nonsense %}", "1:4", "E0303", "no statement 'nonsense'"),
    ("{% for a in b recursive %}{% endfor %}", "1:15", "E0304", "a recursive loop"),
    ("{{ a[1, 2] }}", "1:7", "E0304", "an index of several parts"),
    ("{% if a %}", "1:11", "E0303", "expected 'endif'"),
    ("{% if a %}{% endfor %}", "1:14", "E0303", "no statement 'endfor'"),
    ("{% endif %}", "1:4", "E0303", "no statement 'endif'"),
    ("x {# never", "1:3", "E0303", "the comment has no end"),
    ("x {{ a ", "1:3", "E0303", "the tag has no end"),
    ("{% raw %} x", "1:1", "E0303", "endraw"),
    ("{{ 'abc }}", "1:4", "E0303", "the string has no end"),
    ("{{ (1] }}", "1:6", "E0303", "unexpected ']'"),
    ("{{ }}", "1:4", "E0303", "expected an expression"),
    ("{{ 1 + }}", "1:8", "E0303", "expected an expression"),
    ("{{ 12x }}", "1:4", "E0303", "decimal number"),
    ("{{ 99999999999999999999 }}", "1:4", "E0303", "64 bits"),
    ("{{ '\\ud800' }}", "1:5", "E0303", "names no character"),
    ("{{ 'a%s' % x }}", "1:10", "E0304", "printf"),
    ("{{ a ? b }}", "1:6", "E0303", "unexpected character"),
    ("{% set true = 1 %}", "1:8", "E0303", "a name to assign to"),
    ("{% break %}", "1:4", "E0303", "no loop"),
    ("{% for a in b %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "1:35", "E0303", "no loop"),
    ("{% call 1 %}{% endcall %}", "1:9", "E0303", "the call of a macro"),
    ("{% macro m(a=1, b) %}{% endmacro %}", "1:18", "E0303", "a default"),
    ("{{ f(a=1, 2) }}", "1:11", "E0303", "a named argument"),
    ("{{ " + "(" * 65 + "1" + ")" * 65 + " }}", "1:68", "E0704", "nested more than 64"),
    ("{% if 1 %}" * 65 + "{% endif %}" * 65, "1:647", "E0704", "nested more than 64"),
    ("{{ f(" + "1," * 16 + ") }}", None, "E0704", "more than 15 arguments"),
]
LOOP = "{% for i in range(100) %}ab{% endfor %}"
DEEP = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(k) }}"
LIMITS = [  # template, context, limits, words of the error or None
    (LOOP, {}, {"output": 200}, None),
    (LOOP, {}, {"output": 199}, "more than 199 bytes"),
    (LOOP, {}, {"steps": 100}, "more than 100 steps"),
    ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", {}, {}, "memory"),
    ("{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", {}, {}, "bytes"),
    ("{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", {}, {}, "memory"),
    ("{% set ns = namespace(s=[]) %}{% for i in range(999) %}{% set ns.s = [ns.s] %}{% endfor %}{{ ns.s }}", {}, {}, "nesting"),
    ("{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns.a }}", {}, {}, "cannot be printed"),
    ("{{ 'x' * 99999999999 }}", {}, {}, "bytes"),
    ("{{ range(100001) }}", {}, {}, "more than 100000"),
    (DEEP, {"k": 20}, {}, None),
    (DEEP, {"k": 1000}, {}, "nesting of more than 300"),
    ("{{ 'a' }}", {}, {"depth": 3}, None),
    ("{{ 'a' }}", {}, {"depth": 2}, "nesting of more than 2"),
    ("a\nb\n{{ raise_exception('no!') }}", {}, {}, "line 3: no!"),
    ("\n\n{{ x.y.z }}", {"x": {}}, {}, "line 3: 'y' is undefined"),
    ("{{ 9223372036854775807 + 1 }}", {}, {}, "64 bits"),
    ("{{ 1 // 0 }}", {}, {}, "division by zero"),
]


def refused():
    bad = 0
    for (template, at, code, words), got in zip(REFUSED, render([{"template": t[0], "context": {}} for t in REFUSED])):
        ok = got[0] == "refused" and f": {code}: " in got[1] and words in got[1] and (not at or got[1].startswith(at + ":"))
        bad += not ok
        if not ok:
            print(f"{template[:80]!r}: expected {at} {code} {words!r}, got {got}")
    for (template, context, limits, words), got in zip(LIMITS, render([{"template": t, "context": c, **li} for t, c, li, _ in LIMITS])):
        ok = got[0] == "text" if words is None else got[0] == "error" and words in got[1]
        bad += not ok
        if not ok:
            print(f"{template[:80]!r} with {limits}: expected {words!r}, got {got[0]} {got[1][:100]!r}")
    print(f"{len(REFUSED)} refusals and {len(LIMITS)} limits, {bad} wrong")
    return bad


EXPRESSIONS = r"""
1 + 2 * 3 ** 2 - 7 // 2 % 3 | -7 // 2 | -7 % 3 | 7 / 2 | 1 / 3 | 2 ** -1 | 10 / 5 | 1e3 | 1.5e-7 | 0.1 + 0.2 | 1e16 | 123456789.125
1_000 | -0.0 | true + 1 | 7.0 // 2 | -7.5 % 2 | 1 < 2 < 3 | 3 > 2 > 2 | 1 == 1.0 | "a" < "b" | [1, 2] < [1, 3] | (1, 2) == [1, 2]
"a" ~ 1 ~ none ~ true ~ 1.5 | "ab" * 3 | 2 * "ab" | [1] + [2, 'x'] | (1,) + (2,) | "x" in "axb" | 1 in [1, 2] | "k" in {"k": 1} | 3 not in [1]
not true or false and true | none or "x" | "" or 0 | 1 and "y" | "a" if false | "a" if true else "b" | 1 if 0 else 2 if 0 else 3
[1, "a", none, true, 1.5, [], {}, ()] | {"a": 1, "b": [1, {"c": "d'e"}]} | {1: 2, none: 3, true: 4} | "it's" | ["it's", 'q"q', 'both\'"', "n\n\t\\", "\x01é\u200b😀"]
s | s[0] | s[-1] | s[1:3] | s[::-1] | s[:-2] | s[5:1:-2] | s[99] | s[-99:2] | l[1:] | l[::2] | l[-1] | l[10] | d["a"] | d.a | d["nope"] | d.items | l["x"]
undefined_thing | undefined_thing is defined | undefined_thing | default("d") | none | default("d") | "" | default("d", true) | "" | d("e", boolean=true)
s.upper() | s.lower() | s.title() | s.capitalize() | s | upper | s | lower | s | title | s | capitalize | "hello wORLD-foo (bar)" | title | "straße ǆ" | upper
"  a b  " | trim | "xxaxx".strip("x") | "xxaxx".lstrip("x") | "xxaxx".rstrip("x") | "\u00a0\u2003a\u3000".strip() | " a ".rstrip() | "abc".strip("")
"a,b,,c".split(",") | "a b  c ".split() | "a b c".split(" ", 1) | " a b c ".split(none, 1) | "a,b,c".rsplit(",", 1) | "a b c".rsplit(none, 1) | "ab".split("x") | "".split() | "".split(",")
"a\nb\r\nc\n".splitlines() | "a\nb\n".splitlines(true) | "abcabc".replace("b", "X") | "abcabc".replace("b", "X", 1) | "abc".replace("", "-") | "aaa" | replace("a", "b", 2)
"abc".startswith("ab") | "abc".startswith(("x", "a")) | "abc".endswith("bc") | "abcabc".find("c") | "abcabc".rfind("c") | "éaé".find("a") | "abab".count("ab") | "abc".find("z")
"-".join(["a", "b"]) | [1, 2] | join("-") | [{"a": 1}, {"a": 2}] | join(",", attribute="a") | "abc" | join("|") | [] | join | "x".removeprefix("x") | "xy".removesuffix("y")
"aB1".isalnum() | "12".isdigit() | "ab".isalpha() | " ".isspace() | "ab".islower() | "AB".isupper() | "".isdigit() | "Ab" is lower | "AB" is upper | "12a".isalpha()
d.items() | list | d.keys() | list | d.values() | list | d.get("a") | d.get("zz") | d.get("zz", 5) | d | items | list | d | dictsort | {"b": 1, "A": 2} | dictsort | {"b": 1, "A": 2} | dictsort(by="value") | d | length
l | length | l | first | l | last | [] | first | s | length | s | first | s | last | l | reverse | list | s | reverse | l | list | s | list | l | count | range(5) | list | range(1, 10, 3) | list | range(5, 0, -2) | list | range(3) | length | range(9)[2]
[3, 1, 2] | sort | [3, 1, 2] | sort(reverse=true) | ["b", "A", "c"] | sort | ["b", "A", "c"] | sort(case_sensitive=true) | [{"a": 2}, {"a": 1}] | sort(attribute="a") | [1, 1, 2] | unique | list | ["a", "A"] | unique | list | [1, 2] | sum | [{"a": 2}] | sum(attribute="a") | [1, 5, 2] | max | [1, 5, 2] | min | ["b", "A"] | min
[1, 2, 3] | map("string") | list | ["a"] | map("upper") | list | [{"a": {"b": 1}}] | map(attribute="a.b") | list | [{"a": 1}, {}] | map(attribute="a", default=9) | list | [1, 2, 3] | select("odd") | list | [1, 2, 3] | reject("odd") | list | [0, 1] | select | list
[{"r": "u"}, {"r": "a"}] | selectattr("r", "equalto", "u") | list | [{"r": "u"}, {"r": "a"}] | rejectattr("r", "eq", "u") | list | [{"r": 1}, {}] | selectattr("r") | list | [{"r": 1}, {}] | selectattr("r", "defined") | list | [1, 2, 3] | select(">=", 2) | list | [1, 2, 3] | select("in", [1, 3]) | list
"3" | int | "x" | int | "x" | int(7) | "2.9" | int | 2.9 | int | "ff" | int(base=16) | "1.5" | float | 3 | float | "y" | float(1.5) | 2.567 | round(1) | 2.5 | round | 3 | round | 2.1 | round(method="ceil") | -3 | abs | 1.25 | round(1)
d | tojson | {"a": [1, 2.5, none, true, "é\"\n\u0001/<>&'"]} | tojson | [[], {}, [1], {"x": {}}] | tojson(indent=2) | "é😀" | tojson(ensure_ascii=true) | {"b": 1, "a": 2} | tojson(sort_keys=true) | [1, {"a": 2}] | tojson(separators=(",", ":")) | {1: 2, true: 3, none: 4} | tojson | [1] | tojson(indent=4) | 1e100 | tojson
1 is odd | 2 is even | 4 is divisibleby 2 | 4 is divisibleby(3) | 1 is number | true is number | true is integer | 1.5 is float | 1 is integer | "a" is string | d is mapping | l is mapping | l is iterable | 1 is iterable | l is sequence | d is sequence | none is none | 1 is not none | true is true | 1 is true | false is false | true is boolean | 1 is eq 1 | 1 is ne 2 | 1 is lt 2 | 2 is ge 3 | 1 is in [1] | "a" is sameas "b" | none is sameas none | x is undefined | upper is callable | range is callable
"a\nb\n\nc" | indent | "a\nb" | indent(2) | "a\nb" | indent(2, true) | "a\n\nb\n" | indent(2, first=true, blank=true) | "a\nb" | indent("> ") | "<a & 'b'>" | string | 5 | string | none | string | "x" | safe
l is defined and l | length > 2 | (l | length) ~ "x" | l[0].x | none.x | (none).y is defined | 5.x is defined | "a".x is defined | d.a.b.c | d["a"]["b"] | d.b[0] | [[1, 2], [3, 4]][1][0] | {"a": {"b": "c"}}.a.b | "a" "b" 'c' | "\u00e9\x41\101\
" | 'a\qb' | [1, 2, 3,] | {"a": 1,} | (1, 2, 3) | (1,) | () | 1, 2 | dict(a=1, b="x") | dict({"z": 1}, a=2) | namespace(a=1).a | l.index(2) | l.count(2) | -l[0] | +3 | - -3 | not 1 | 1 != 2 | 2 >= 2 | "b" <= "a"
strftime_now("%Y-%m-%d %H:%M:%S %a %b %j") | raise_exception("x") | loop | [1, 2] | first + 1 | "a" | upper ~ "b" | ("a" ~ "b") | upper | "%s" | length | 1 | string | length | l | map("string") | join("+") | l | tojson | length
1 + "a" | "a" + 1 | none + 1 | [1] + (2,) | {} + {} | undefined_thing + 1 | undefined_thing.x | undefined_thing() | 1() | "a"() | "a" < 1 | none < 1 | 1 in 2 | 1 in "a" | none | length | 1 | length | 1 | list | [1] | sort(attribute="a.b") | [1, "a"] | sort | s.nope() | [1] | join(1) | {[]: 1} | "x" | int("y") | l | map("upper") | list | nope | upper
"""

STATEMENTS = [
    "{% for a in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('x', 'y') }};{% endfor %}",
    "{% for a in [] %}x{% else %}none{% endfor %}", "{% for a in l if a > 1 %}{{ a }}{{ loop.length }}{% else %}no{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }},{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for c in 'aé' %}[{{ c }}]{% endfor %}",
    "{% for (a, b) in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}", "{% for a in nope %}x{% else %}y{% endfor %}", "{% for a in 5 %}{% endfor %}",
    "{% for a in l %}{% if a == 2 %}{% continue %}{% endif %}{{ a }}{% if a == 3 %}{% break %}{% endif %}{% endfor %}",
    "{% for a in [1, 2] %}{% for b in [1, 2] %}{{ loop.index }}{{ loop.depth }}{% if b == 1 %}{% break %}{% endif %}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% set x = 1 %}{% for a in l %}{% set x = x + a %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(x=1, y='a') %}{% for a in l %}{% set ns.x = ns.x + a %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}",
    "{% if a %}1{% elif b %}2{% elif l %}3{% else %}4{% endif %}", "{% if not nope %}x{% endif %}{% if 0 %}{% else %}y{% endif %}",
    "{% set a, b = 1, 'x' %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a, b = [1] %}", "{% set x %}  t{{ 1 + 1 }}  {% endset %}[{{ x }}]",
    "{% set x | trim | upper %} ab {% endset %}[{{ x }}]", "{% set x %}{% set y = 1 %}{% endset %}{{ y is defined }}", "{% if true %}{% set y = 1 %}{% endif %}{{ y }}",
    "{% macro m(a, b=2, c='x') %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=5) }}{{ m() }}{{ m(b=1, a=0) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}", "{% macro m() %}{{ s }}{{ x }}{% endmacro %}{% set x = 5 %}{{ m() }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro m() %}a{% endmacro %}{{ m() | upper }}{{ m is callable }}{{ m() is string }}",
    "{% macro m(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) m(3) %}[{{ y }}]{% endcall %}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% for a in l %}{% macro m() %}{{ a is defined }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro m(l) %}{% for x in l %}{{ loop.index }}{% endfor %}{% endmacro %}{% for q in l %}{{ m(l) }}{{ loop.index }}{% endfor %}",
    "{% filter upper %}a{{ s }}{% endfilter %}", "{% filter trim | upper %} a {% endfilter %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with %}{% set q = 1 %}{% endwith %}{{ q is defined }}",
    "{% generation %}{% set q = 1 %}x{% endgeneration %}{{ q is defined }}", "{% raw %}{{ x }}{% if %}{% endraw %}y", "{%- raw -%}  {{ x }}  {%- endraw -%}  z",
    "a  {#- c -#}  b", "a\n  {# c #}\nb", "a\n  {#+ c +#}\nb", "a\n  {% if 1 %}\n  b\n  {% endif %}\n  c\n", "a\n  {%+ if 1 +%}\n  b\n  {%+ endif %}\nc\n\n", "  {{ 1 }}  \n  {{- 2 -}}  \n 3",
    "{% if 1 -%}\n\n  x\n\n{%- endif %}\ny", "x {%- if 1 %} y {% endif -%} z", "{{ {'a': {}} }}{{ {'a': {'b': 1}}}}", "{{ '}}' }}{{ '%}' }}", "{{ 1 }}\n", "{{ 1 }}\n\n", "a\r\nb\rc{% if 1 %}\r\nd{% endif %}", "\n\n{% if 1 %}\n\nx{% endif %}\n\n",
    "  {% set a = 1 %}  {% set b = 2 %}\n  {% set c = 3 %}{{ a }}\n\t{% if 1 %}\tx{% endif %}\t\n", "{{ m.0.role }}{{ m[0].role }}{{ m.0['role'] }}{{ l.0 }}", "{% set m = l | map('string') %}{% for x in m %}{{ x }}{% endfor %}|{% for x in m %}{{ x }}{% endfor %}",
    "{% if l | select('odd') %}always{% endif %}{% if [] | select('odd') %}always{% endif %}", "{{ (l | map('string')) | length }}", "{{ range(3) }}", "{{ l.append(4) }}", "{{ d.items() | length }}{{ d.keys() | length }}{% if {}.items() %}x{% endif %}", "{% set f = l %}{{ f }}{% set d = 5 %}{{ d }}",
    "{{ [1,2,3] | sum ~ '' }}{{ not l }}{{ -s | length }}", "{% for a in l -%} {{ a }} {%- endfor %}", "{% for a in l %}\n{{ a }}\n{% endfor %}\n", "{{ f(*[1, 2]) }}", "{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ f(*[1, 2]) }}{{ f(**{'a': 3, 'b': 4}) }}{{ f(1, *[2]) }}",
]
CONTEXT = {"s": "Hello Wörld", "l": [1, 2, 3], "d": {"a": 1, "b": [True, None], "c": "x"}, "m": [{"role": "user"}], "x1": None}


FILTERS = ["upper", "lower", "trim", "length", "first", "last", "string", "list", "tojson", "default('z')", "default(1, true)", "join('-')", "reverse | list", "int",
           "float", "title", "capitalize", "unique | list", "sort", "map('string') | list", "select | list", "items | list", "tojson(indent=1)",
           "replace('a', 'b')", "indent(2)", "selectattr('role') | list", "map('upper') | join", "dictsort", "count", "round", "abs", "sum", "max"]


# What jinja2 prints of objects that have no meaning in a prompt; here printing them is an error.
OBJECTS = ("<generator", "<bound", " object at ", "dict_", "range(", "<built-in", "<Macro", "<LoopContext", "<method", "<jinja2", "<Namespace", )


def printable(expected):
    return [("error", text) if kind == "text" and any(o in text for o in OBJECTS) else (kind, text) for kind, text in expected]


class Maker:
    """Random templates from a grammar; most render, some end in an error on both sides."""

    def __init__(self, seed):
        self.r = random.Random(seed)

    def atom(self):
        r = self.r
        return r.choice(["s", "l", "d", "m", "x1", "nope", "ns.a", "loop.index", "v", "w", str(r.randrange(-5, 9)), "1.5", "'ab'", "'é x'", "''", "none", "true",
                         "[]", "[1, 'a']", "{'k': v}", "d.a", "d['b']", "m[0].role", "s[1:]", "l[-1]", "mac(1)", "(1, 2)"])

    def expr(self, depth=0):
        r = self.r
        if depth > 2 or r.random() < 0.3:
            return self.atom()
        a, b = self.expr(depth + 1), self.expr(depth + 1)
        form = r.choice(["{a} {op} {b}", "({a} {op} {b})", "{a} | {f}", "({a}) | {f}", "({a} is {t})", "({a} is not {t})", "{a} if {b} else {a}", "{a} {lo} {b}", "(not {a})",
                         "({a}).{me}", "({a}).{at}", "({a})[{b}]", "[{a}, {b}]", "{a} ~ {b}", "{a} == {b}", "{a} in [{b}]", "{v}[{n}:{n2}]"])
        return form.format(a=a, b=b, op=r.choice("+ - * // < >= != in ~ ~".split()), lo=r.choice(["and", "or"]), n=r.randrange(-3, 3), v=r.choice("slmvw"), n2=r.randrange(-3, 4), at=r.choice(["a", "role", "x"]),
                           f=r.choice(FILTERS),
                           t=r.choice("defined none string mapping iterable number sequence boolean true odd undefined".split()),
                           me=r.choice(["upper()", "strip()", "split('a')", "items()", "get('a')", "keys()", "startswith('a')", "replace('a', 'b')", "title()", "splitlines()"]))

    def space(self):
        return self.r.choice(["", "", " ", "\n", "  \n ", "\n\n", "\t", "text", "é\n  "])

    def tag(self, text):
        return "{%" + self.r.choice(["", "-", "+", "", ""]) + " " + text + " " + self.r.choice(["", "-", "", ""]) + "%}"

    def body(self, depth=0):
        return "".join(self.space() + self.statement(depth) for _ in range(self.r.randrange(1, 4))) + self.space()

    def statement(self, depth):
        r, k = self.r, self.r.randrange(12)
        if depth > 2 or k < 4:
            return "{{" + r.choice(["", "-", ""]) + " " + self.expr() + " " + r.choice(["", "-", ""]) + "}}"
        if k == 4:
            return self.tag("if " + self.expr()) + self.body(depth + 1) + self.tag("else") + self.body(depth + 1) + self.tag("endif")
        if k in (5, 6):
            cond = " if " + self.expr(2) if r.random() < 0.2 else ""
            return self.tag(f"for v in {r.choice(['l', 'm', 'd', 's', 'range(3)', '[]', self.expr(1)])}{cond}") + self.body(depth + 1) + self.tag("endfor")
        if k == 7:
            return self.tag(f"set {r.choice(['v', 'w', 'l', 'ns.a'])} = {self.expr()}")
        if k == 8:
            return self.tag("set w") + self.body(depth + 1) + self.tag("endset")
        if k == 9:
            return "{#" + r.choice(["", "-", "+"]) + " note " + r.choice(["", "-", "+"]) + "#}"
        if k == 10:
            return self.tag("filter upper") + self.body(depth + 1) + self.tag("endfilter")
        return self.tag("macro mac(a, b=1)") + self.body(depth + 1) + self.tag("endmacro")

    def template(self):
        return "{% set ns = namespace(a=1) %}{% macro mac(q) %}{{ q }}{% endmacro %}" + self.body()


def oracle():
    try:
        import jinja2  # noqa: F401
    except ImportError:
        print("jinja2 is not installed")
        sys.exit(77)
    reference = cases.Reference()
    bad = 0
    pieces = [e for line in EXPRESSIONS.replace("\\\n", "\\\n").split("\n") for e in split_expressions(line)]
    batch = [{"template": "{{ " + e + " }}", "context": CONTEXT} for e in pieces] + [{"template": t, "context": CONTEXT} for t in STATEMENTS]
    bad += compare("case", batch, printable([reference.render(c["template"], c["context"]) for c in batch]))
    n_cases = len(batch)
    count = int(os.environ.get("PFQC_TEMPLATES", 2000 if os.environ.get("PFQC_TEST_FULL") else 400))
    batch = [{"template": Maker(seed).template(), "context": CONTEXT} for seed in range(count)]
    expected = [reference.render(c["template"], c["context"]) for c in batch]
    expected = printable(expected)
    bad += compare("random", batch, expected)
    rendered = sum(e[0] == "text" for e in expected)
    real = pathlib.Path(sys.argv[3]) / "trl/chat_templates" if len(sys.argv) > 3 else pathlib.Path("/nonexistent")
    n_real = 0
    for path in sorted(real.glob("*.jinja")):
        source = path.read_bytes().decode()
        batch = [{"template": source, "context": context} for _, context in cases.contexts()]
        bad += compare(path.name, batch, [reference.render(source, c["context"]) for c in batch])
        n_real += 1
    print(f"{n_cases} cases, {count} random templates ({rendered} render), {n_real} real templates: {bad} differ")
    return bad


def split_expressions(line):
    """At ' | ' between expressions: a filter's bar is one too, so a part that is a filter is joined to the one before."""
    filters = {f.split("(")[0] for f in "upper lower title capitalize trim replace join items list dictsort length first last reverse count sort unique sum max min map select reject selectattr rejectattr int float round abs tojson indent string safe default d".split()}
    out = []
    for part in line.split(" | "):
        name = part.split("(")[0].split(" ")[0].strip()
        if out and name in filters and (part.strip() == name or part.startswith(name + "(") or part.startswith(name + " ")) and not part.startswith("l ") and name not in ("d",):
            out[-1] += " | " + part
        elif part.strip():
            out.append(part.strip())
    return out


if len(sys.argv) > 3:
    sys.path.insert(0, sys.argv[3])
sys.exit(1 if {"golden": golden, "refused": refused, "oracle": oracle}[sys.argv[2]]() else 0)
