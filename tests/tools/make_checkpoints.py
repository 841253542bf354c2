#!/usr/bin/env python3
"""Writes the small valid checkpoints of tests/data/checkpoints that are not copies of other projects' files.

The writers are the formats' own (PyPI: gguf, safetensors, torch, numpy), so that pfqc's readers are not tested
against pfqc's idea of the format. Element i of every plain tensor is i (mod 2 for bool).
"""
import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/checkpoints")
QUANTS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


def all_types_gguf(path):
    w = gguf.GGUFWriter(path, "test")
    w.add_custom_alignment(64)
    w.add_uint8("t.u8", 200)
    w.add_int8("t.i8", -100)
    w.add_uint16("t.u16", 60000)
    w.add_int16("t.i16", -30000)
    w.add_uint32("t.u32", 4000000000)
    w.add_int32("t.i32", -2000000000)
    w.add_float32("t.f32", 1.5)
    w.add_bool("t.bool", True)
    w.add_string("t.string", "na\u00efve")
    w.add_uint64("t.u64", 2**64 - 1)
    w.add_int64("t.i64", -(2**63))
    w.add_float64("t.f64", 0.1)
    w.add_array("t.strings", ["a", "", "b\u00e9"])
    w.add_array("t.ints", [3, -1, 4])
    w.add_array("t.floats", [0.5, -2.0])
    w.add_array("t.bools", [True, False])
    rng = np.random.default_rng(2)
    for name, dtype in [("f32", "f4"), ("f16", "f2"), ("f64", "f8"), ("i8", "i1"), ("i16", "i2"), ("i32", "i4"), ("i64", "i8")]:
        w.add_tensor(f"plain.{name}", np.arange(6, dtype=dtype).reshape(2, 3))
    w.add_tensor("deep.f32", np.arange(24, dtype="f4").reshape(2, 3, 2, 2))
    for q in QUANTS:
        t = gguf.GGMLQuantizationType[q]
        size = gguf.GGML_QUANT_SIZES[t]
        row = 256 // size[0] * size[1]
        w.add_tensor(f"quant.{q.lower()}", rng.integers(0, 120, (2, row), dtype=np.uint8), raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def v2_gguf(path):
    """Version 2 has version 3's layout."""
    w = gguf.GGUFWriter(path, "test")
    w.add_uint32("t.u32", 7)
    w.add_tensor("a", np.arange(4, dtype="f4").reshape(2, 2))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    b = bytearray(path.read_bytes())
    b[4] = 2
    path.write_bytes(b)


def all_dtypes_safetensors(path):
    t = {}
    for name in "float32 float16 bfloat16 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 float8_e4m3fn float8_e5m2".split():
        t[f"plain.{name}"] = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
    t["plain.bool"] = (torch.arange(6).reshape(2, 3) % 2).bool()
    t["scalar"] = torch.tensor(5.0)
    t["empty"] = torch.zeros(0, 4)
    t["deep"] = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 1, 2, 2)
    save_file(t, path, metadata={"format": "pt", "note": "na\u00efve \"quoted\" \\ \t"})


def sharded(folder):
    """Two shards, an index, and a tied tensor that is stored once, as transformers writes it."""
    folder.mkdir(exist_ok=True)
    tensors = {"a.weight": (4, 3), "b.weight": (2, 5), "b.bias": (5,)}
    t = {k: torch.arange(int(np.prod(s)), dtype=torch.float32).reshape(s) for k, s in tensors.items()}
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    save_file({"a.weight": t["a.weight"]}, folder / names[0], metadata={"format": "pt", "tied.weight": "a.weight"})
    save_file({k: t[k] for k in ("b.weight", "b.bias")}, folder / names[1], metadata={"format": "pt"})
    index = {"metadata": {"total_size": 108}, "weight_map": {"a.weight": names[0], "b.bias": names[1], "b.weight": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


for kind in ("gguf", "safetensors"):
    (OUT / kind).mkdir(parents=True, exist_ok=True)
all_types_gguf(OUT / "gguf" / "all-types.gguf")
v2_gguf(OUT / "gguf" / "v2.gguf")
all_dtypes_safetensors(OUT / "safetensors" / "all-dtypes.safetensors")
sharded(OUT / "sharded")
