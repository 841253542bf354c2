#!/usr/bin/env python3
"""Writes tests/data/templates/golden.json: the prompts that jinja2 (PyPI) makes of the templates there; null where the
template refuses the conversation."""
import json
import pathlib
import sys

root = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(root / "tests/template"))
from cases import Reference, contexts  # noqa: E402

folder = root / "tests/data/templates"
reference, golden = Reference(), {}
for path in sorted(folder.glob("*.jinja")):
    prompts = {label: reference.render(path.read_text(), context) for label, context in contexts()}
    golden[path.name] = {label: text if kind == "text" else None for label, (kind, text) in prompts.items()}
(folder / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
