#!/usr/bin/env python3
"""Writes tests/data/encodings/NAME.bin: encoded blocks and the f32 values that the format's reference decoder gives.

File: u32 blocks, the blocks, then the f32 values, all little-endian. Needs numpy, torch and gguf (PyPI).
Block contents are random bytes (seed 1); every block's f16 scales come from a list that holds the extremes.
"""
import pathlib
import sys

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

# zero, -0, smallest and largest subnormal, smallest normal, 1, -1.75, largest, most negative, inf, two ordinary ones
HALVES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0xBF00, 0x7BFF, 0xFBFF, 0x7C00, 0x2E66, 0xA1B7]
# byte offsets of the f16 fields of a block
QUANTS = {
    "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0], "iq4_nl": [0],
    "q2_k": [80, 82], "q3_k": [108], "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208],
}
TORCH = {"f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2}


def quant_blocks(name, rng):
    size = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]][1]
    n = len(HALVES)
    b = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for k, at in enumerate(QUANTS[name]):
        order = np.roll(np.array(HALVES, dtype="<u2"), 5 * k)
        b[:, at : at + 2] = order.view(np.uint8).reshape(n, 2)
    return b


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/encodings")
    rng = np.random.default_rng(1)
    cases = {}
    for name in QUANTS:
        b = quant_blocks(name, rng)
        with np.errstate(all="ignore"):
            cases[name] = b, dequantize(b, GGMLQuantizationType[name.upper()])
    for name, dtype in TORCH.items():
        b = np.arange(256, dtype=np.uint8)
        cases[name] = b, torch.from_numpy(b.view(np.int8)).view(dtype).float().numpy()
    for name, (b, values) in cases.items():
        head = np.array([b.shape[0]], dtype="<u4")
        (out / f"{name}.bin").write_bytes(head.tobytes() + b.tobytes() + values.astype("<f4").tobytes())


main()
