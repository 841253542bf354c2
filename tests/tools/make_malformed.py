#!/usr/bin/env python3
"""Writes tests/data/malformed: one damaged checkpoint per class of bug that other loaders had, and expected.txt.

Each file differs from a valid one in one respect and is named after the CVE or class. expected.txt has lines
"FILE CODE TEXT": pfqc's one diagnostic must have this code, and its message must contain TEXT.
"""
import json
import pathlib
import struct
import sys

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/malformed")
FORMAT, DTYPE, LIMIT = "E0201", "E0204", "E0704"
JSON, TYPE, MISSING, UNKNOWN, VALUE = "E0101", "E0102", "E0103", "E0104", "E0105"
U64 = 2**64 - 1
expected = []


def put(kind, name, data, code, text):
    path = OUT / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    expected.append(f"{kind}/{name} {code} {text}")


# ---- GGUF ----

def u32(x):
    return struct.pack("<I", x & 0xFFFFFFFF)


def u64(x):
    return struct.pack("<Q", x & U64)


def string(s, n=None):
    b = s if isinstance(s, bytes) else s.encode()
    return u64(len(b) if n is None else n) + b


def kv(key, type_, value):
    return string(key) + u32(type_) + value


def tensor(name="a", dims=(4, 2), type_=0, offset=0, rank=None):
    return string(name) + u32(len(dims) if rank is None else rank) + b"".join(map(u64, dims)) + u32(type_) + u64(offset)


ARCH = kv("general.architecture", 8, string("test"))


def gguf(name, code, text, kvs=(ARCH,), tensors=(tensor(),), n_kv=None, n_tensors=None, magic=b"GGUF", version=u32(3), data=64, align=32, tail=b""):
    head = magic + version + u64(len(tensors) if n_tensors is None else n_tensors) + u64(len(kvs) if n_kv is None else n_kv)
    b = head + b"".join(kvs) + b"".join(tensors)
    if data:
        b += b"\0" * (-len(b) % align) + bytes(range(data))
    put("gguf", name + ".gguf", b + tail, code, text)


def gguf_kv(name, code, text, *kvs, **more):
    gguf(name, code, text, kvs=(ARCH, *kvs), **more)


def gguf_tensor(name, code, text, *tensors, **more):
    gguf(name, code, text, tensors=tensors, **more)


def all_gguf():
    gguf("bad-magic", FORMAT, "does not start with", magic=b"GGUG")
    gguf("version-0", FORMAT, "GGUF version 0", version=u32(0))
    gguf("version-1", FORMAT, "GGUF version 1", version=u32(1))
    gguf("version-4", FORMAT, "GGUF version 4", version=u32(4))
    gguf("big-endian", FORMAT, "big-endian", version=struct.pack(">I", 3))
    gguf("cve-2024-23496-key-count-wraps", FORMAT, "claims 384307168202282326 metadata keys", n_kv=0x0555555555555556)
    gguf("cve-2024-21836-tensor-count-wraps", FORMAT, "tensors, but the file has", n_tensors=0x1745D1745D1745D2)
    gguf("cve-2024-41130-nothing-after-counts", FORMAT, "claims 1 metadata keys", kvs=(), n_kv=1, tensors=(), data=0)
    gguf("negative-tensor-count", FORMAT, "claims 18446744073709551615 tensors", n_tensors=-1)
    gguf("negative-key-count", FORMAT, "claims 18446744073709551615 metadata keys", n_kv=-1)
    gguf("more-keys-than-present", FORMAT, "", n_kv=3)
    gguf("more-tensors-than-present", FORMAT, "", n_tensors=2)

    gguf("cve-2024-21825-key-length-wraps", FORMAT, "a metadata key claims 18446744073709551615 bytes", kvs=(string("k", U64) + u32(4) + u32(1),))
    gguf("cve-2025-66959-string-length", FORMAT, "claims 1099511627776 bytes", kvs=(kv("k", 8, u64(1 << 40)),))
    gguf("lc-24263-empty-key", FORMAT, "is not 1 to 65535 bytes", kvs=(kv("", 4, u32(1)),))
    gguf("key-invalid-utf8", FORMAT, "the metadata key '\\xff\\xfe' is not", kvs=(kv(b"\xff\xfe", 4, u32(1)),))
    gguf_kv("duplicate-key", FORMAT, "'k' appears twice", kv("k", 4, u32(1)), kv("k", 4, u32(1)))
    gguf_kv("unknown-value-type", FORMAT, "unknown type 13", kv("k", 13, u32(1)))
    gguf_kv("bool-2", FORMAT, "boolean of 2", kv("k", 7, b"\2"))
    gguf_kv("bool-array-255", FORMAT, "boolean of 255", kv("k", 9, u32(7) + u64(2) + b"\1\xff"))
    gguf_kv("cve-2024-23605-array-count-wraps", FORMAT, "claims 2305843009213693953 elements", kv("k", 9, u32(10) + u64((1 << 61) + 1) + u64(0)))
    gguf_kv("cve-2025-0315-array-allocation", FORMAT, "claims 1099511627776 elements", kv("k", 9, u32(0) + u64(1 << 40)))
    gguf_kv("cve-2024-32878-array-ends-early", FORMAT, "claims 3 elements", kv("k", 9, u32(8) + u64(3) + string("x") + u64(4096)), tensors=(), data=0)
    gguf_kv("array-of-arrays", FORMAT, "array of arrays", kv("k", 9, u32(9) + u64(1) + u32(0) + u64(0)))
    gguf_kv("array-unknown-type", FORMAT, "array of the unknown type 4294967295", kv("k", 9, u32(-1) + u64(1)))

    for value in (0, 3, 4, 131072, 0xFFFFFFFF):
        name = "cve-2025-0317-alignment-0" if value == 0 else f"alignment-{value}"
        gguf_kv(name, FORMAT, f"general.alignment is {value}, expected", kv("general.alignment", 4, u32(value)))
    gguf_kv("alignment-string", FORMAT, "general.alignment is of type string", kv("general.alignment", 8, string("32")))
    gguf_kv("alignment-u64", FORMAT, "general.alignment is of type u64", kv("general.alignment", 10, u64(32)))

    gguf_tensor("duplicate-tensor", FORMAT, "'a' appears twice", tensor(), tensor(offset=32))
    gguf_tensor("tensor-without-name", FORMAT, "without a name", tensor(name=""))
    gguf_tensor("tensor-name-too-long", LIMIT, "1025 bytes", tensor(name="x" * 1025))
    gguf_tensor("tensor-name-invalid-utf8", FORMAT, "not valid UTF-8", tensor(name=b"a\xc0\xaf"))
    gguf_tensor("rank-5", FORMAT, "5 dimensions", tensor(dims=(1, 1, 1, 1, 1)))
    gguf_tensor("rank-wraps", FORMAT, "4294967295 dimensions", tensor(rank=-1))
    gguf_tensor("lc-24263-dimension-0", FORMAT, "dimension of 0", tensor(dims=(4, 0)))
    gguf_tensor("cve-2024-21802-elements-wrap", FORMAT, "does not fit 63 bits", tensor(dims=(1 << 32, 1 << 32)))
    gguf_tensor("cve-2026-33298-elements-wrap-to-8", FORMAT, "does not fit 63 bits", tensor(dims=(1 << 62, 4, 2)))
    gguf_tensor("negative-dimension", FORMAT, "does not fit 63 bits", tensor(dims=(4, -2)))
    gguf_tensor("cve-2026-33298-bytes-wrap", FORMAT, "does not fit 64 bits", tensor(dims=(1 << 61,), type_=28))
    gguf_tensor("cve-2025-53630-total-wraps", FORMAT, "ends beyond the file", tensor("a", (1 << 61,)), tensor("b", (1 << 61,), 0, 1 << 63))
    gguf_tensor("cve-2026-27940-offset-plus-size-wraps", FORMAT, "ends beyond the file", tensor(offset=U64 - 31))
    gguf_tensor("cve-2026-7482-size-beyond-file", FORMAT, "ends beyond the file", tensor(dims=(1 << 20, 16)))
    gguf_tensor("cve-2024-39720-data-one-byte-short", FORMAT, "ends beyond the file", tensor(), data=31)
    gguf_tensor("offset-beyond-file", FORMAT, "ends beyond the file", tensor(offset=1 << 40))
    gguf_tensor("offset-unaligned", FORMAT, "not a multiple of the alignment 32", tensor(offset=4))
    gguf_tensor("overlap", FORMAT, "tensor 'b' overlaps tensor 'a'", tensor("a", (16,)), tensor("b", (4,), 0, 32))
    gguf_tensor("same-data-twice", FORMAT, "overlaps", tensor("a", (8,)), tensor("b", (8,)))
    gguf_tensor("hole", FORMAT, "belong to no tensor", tensor("a", (4,)), tensor("b", (4,), 0, 64), data=96)
    gguf_tensor("hole-at-start", FORMAT, "32 bytes before tensor 'a'", tensor(offset=32))
    gguf_tensor("rows-not-whole-blocks", FORMAT, "not whole blocks of 32", tensor(dims=(16, 4), type_=2))
    gguf_tensor("unknown-tensor-type", DTYPE, "ggml type 99", tensor(type_=99))
    gguf_tensor("removed-tensor-type-q4_2", DTYPE, "ggml type 4", tensor(dims=(32,), type_=4))
    gguf_tensor("unsupported-tensor-type", DTYPE, "(iq2_xxs)", tensor(dims=(256,), type_=16))


# ---- safetensors ----

def entry(dtype="F32", shape=(2, 2), offsets=(0, 16), **more):
    return {"dtype": dtype, "shape": shape and list(shape), "data_offsets": list(offsets), **more}


def st(name, code, text, header=None, data=16, length=None, raw=None):
    b = raw if raw is not None else json.dumps(header).encode()
    put("safetensors", name + ".safetensors", u64(len(b) if length is None else length) + b + bytes(range(data)), code, text)


def st1(name, code, text, data=16, **fields):
    st(name, code, text, {"a": entry(**fields)}, data)


def all_safetensors():
    good = json.dumps({"a": entry()}).encode()
    put("safetensors", "empty-file.safetensors", b"", FORMAT, "has 0 bytes")
    put("safetensors", "seven-bytes.safetensors", b"\1\0\0\0\0\0\0", FORMAT, "has 7 bytes")
    put("safetensors", "pytorch-pickle.safetensors", b"PK\3\4" + bytes(60), FORMAT, "looks like a PyTorch pickle")
    st("header-length-wraps", FORMAT, "claims 18446744073709551615 bytes", raw=good, length=U64)
    st("header-longer-than-file", FORMAT, "the header claims", raw=good, length=len(good) + 17)
    st("header-length-0", FORMAT, "does not start with", raw=good, length=0)
    st("header-cut", JSON, "", raw=good, length=len(good) - 1)
    st("header-starts-with-space", FORMAT, "does not start with", raw=b" " + good)
    st("header-is-array", FORMAT, "does not start with", raw=b"[" + good + b"]")
    st("header-trailing-text", JSON, "end of the file", raw=good + b" x")
    st("header-not-utf8", JSON, "UTF-8", raw=good.replace(b'"a"', b'"\xff"'))
    st("cve-2023-26819-long-number", JSON, "number", raw=good.replace(b"[0, 16]", b"[0, " + b"1" * 600 + b"]"))
    st("lone-surrogate-name", JSON, "surrogate", raw=good.replace(b'"a"', b'"\\ud800"'))
    st("nul-in-name", JSON, "NUL", raw=good.replace(b'"a"', b'"a\\u0000b"'))
    st("nested-129-deep", TYPE, "is an array", raw=b'{"a":' + b"[" * 129 + b"]" * 129 + b"}")
    st("duplicate-name", JSON, "appears twice", raw=good[:-1] + b", " + good[1:])
    st("duplicate-field", JSON, "appears twice", raw=good.replace(b'"shape"', b'"dtype": "F32", "shape"'))
    st("tensor-null", TYPE, "is null", {"a": None})
    st("tensor-without-name", FORMAT, "without a name", {"": entry()})
    st("tensor-name-too-long", LIMIT, "1025 bytes", {"x" * 1025: entry()})
    st("missing-dtype", MISSING, '"dtype"', {"a": {"shape": [4], "data_offsets": [0, 16]}})
    st("missing-shape", MISSING, '"shape"', {"a": {"dtype": "F32", "data_offsets": [0, 16]}})
    st("missing-offsets", MISSING, '"data_offsets"', {"a": {"dtype": "F32", "shape": [4]}})
    st1("shape-null", TYPE, "is null", shape=None)
    st1("unknown-field", UNKNOWN, "strides", strides=[2, 1])
    st1("unknown-dtype", DTYPE, '"F6_E2M3"', dtype="F6_E2M3")
    st1("dtype-lower-case", DTYPE, '"f32"', dtype="f32")
    st1("dtype-number", TYPE, "a number", dtype=5)
    st1("negative-dimension", VALUE, "dimension", shape=(-2, -2))
    st1("fractional-dimension", VALUE, "dimension", shape=(2.0, 2))
    st1("dimension-2-to-63", VALUE, "dimension", shape=(1 << 63, 2))
    st1("dimension-string", VALUE, "dimension", shape=("2", 2))
    st1("st-wrap-shape-product-4", FORMAT, "does not fit 63 bits", shape=((1 << 62) + 1, 4))
    st1("zero-hides-overflow", FORMAT, "does not fit 63 bits", shape=(0, 1 << 62, 4), offsets=(0, 0), data=0)
    st1("bytes-wrap", FORMAT, "does not fit 64 bits", dtype="F64", shape=(1 << 61,))
    st1("rank-9", LIMIT, "more than 8 dimensions", shape=(1, 1, 1, 1, 1, 1, 1, 2, 2))
    st1("shape-and-range-differ", FORMAT, "need 12", shape=(3,))
    st1("offsets-reversed", VALUE, "begin <= end", offsets=(16, 0))
    st1("offsets-negative", VALUE, "begin <= end", offsets=(-16, 0))
    st1("offsets-three", VALUE, "two integers", offsets=(0, 8, 16))
    st1("offsets-fractional", VALUE, "two integers", offsets=(0, 16.5))
    st1("offsets-beyond-file", FORMAT, "but the file holds 16", offsets=(16, 32))
    st1("cve-2026-7482-size-beyond-file", FORMAT, "but the file holds 16", shape=(1 << 40,), offsets=(0, 1 << 42))
    st1("hole-at-start", FORMAT, "16 bytes before tensor 'a'", offsets=(16, 32), data=32)
    st1("audit-bytes-behind-last-tensor", FORMAT, "3 bytes behind the last tensor", data=19)
    st("audit-no-tensors-but-data", FORMAT, "16 bytes behind", {})
    st("overlap", FORMAT, "tensor 'b' overlaps tensor 'a'", {"a": entry(), "b": entry(offsets=(8, 24))}, 24)
    st("same-data-twice", FORMAT, "overlaps", {"a": entry(), "b": entry()})
    st("hole", FORMAT, "4 bytes before tensor 'b'", {"a": entry(), "b": entry(offsets=(20, 36))}, 36)
    st("metadata-not-an-object", TYPE, "__metadata__", {"__metadata__": [], "a": entry()})
    st("metadata-number", TYPE, "a number", {"__metadata__": {"k": 1}, "a": entry()})
    st("metadata-nested", TYPE, "an object", {"__metadata__": {"k": {}}, "a": entry()})


all_gguf()
all_safetensors()
(OUT / "expected.txt").write_text("\n".join(expected) + "\n")
print(len(expected), "files")
