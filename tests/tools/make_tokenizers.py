#!/usr/bin/env python3
"""Writes tests/data/tokenizers: small tokenizers of every kind pfqc reads, texts, and the ids the references give.

NAME.json, NAME.gguf, NAME.model    the tokenizer, trained on the words below
texts.json                          the texts, an array of strings
tests/fuzz/corpus/tokenizer_*       seeds of the fuzz harnesses
NAME.ids.json                       {"special": ids per text, "plain": the same with special tokens in the text read as
                                    text, "decoded": text of the plain ids}
Needs tokenizers, sentencepiece and gguf (PyPI). References: tokenizers for .json (and for the GGUF files made from
them), sentencepiece for .model.
"""
import copy
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile

import gguf
import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

WORDS = """the quick brown fox jumps over the lazy dog and then the dog sleeps in the sun while other animals
play there; there is nothing better than this, they're told, it's what we've done, I'll say you'd be there I'm sure.
for (int i = 0; i < 10; i++) { return value[i] + 3.14; } // numbers 123 4567 89 and CamelCaseWords HTTPServer
Der schnelle Fuchs \u00fcberquert die Stra\u00dfe; d\u00e9j\u00e0 vu, \u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440, \u4f60\u597d\u4e16\u754c, \u3053\u3093\u306b\u3061\u306f, \uc548\ub155 \U0001f999"""
POOL = ["a", "b", "the", " the", "Hello", "world", "dog ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "1", "23", "4567",
        "'s", "'RE", "'ll", "\u00e9", "e\u0301", "\u4e2d", "\u4f60\u597d", "\u3053\u3093", "\uac00", "\uc548", "\U0001f999",
        "\u200d", "\u2167", "\u00b2", ".", "!", "...", "=", "\u2581", "x", "\u3000", "\u00a0", "\u017f", "<", "|", ">", "_", "A",
        "\u0130", "\u00df", "\u0b83", "\u1e9b\u0323", "\ufeff", "there", "HTTPServer", "<|im_start|>", "<|im_end|>", "<L>", "<R>",
        "<word>", "<norm x>", " <L> ", " <R> ", "x<word>"]
FIXED = ["", " ", "  ", "Hello", " Hello world", "\u00c4pfel", "ied 4 \u00bd months", "I've been 'told he's there, 'RE you sure?",
         "\n \n\n \n\n\n \t \t\t \t\n  \n   \n", "3 33 333 3333 33333 333333", "e\u0301\u0323 e\u0323\u0301", "<|im_start|>user\nhi<|im_end|>",
         "a" * 300, "the " * 60, "\u2581\u2581x \u2581", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "1234567890" * 4]


def header_patterns(root):
    """The pattern strings of PFQ_TOK_SPLITS, so that they are stated in one place."""
    source = """#include <stdio.h>
#include "runtime/tokenizer.h"
#define X(id, pattern) puts(#id), puts(pattern);
int main(void) { PFQ_TOK_SPLITS(X) return 0; }"""
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "patterns"
        subprocess.run(["cc", "-I", root, "-x", "c", "-", "-o", program], input=source, text=True, check=True)
        lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(zip(lines[::2], lines[1::2]))


def added(content, id, special=True, **flags):
    return dict(id=id, content=content, single_word=False, lstrip=False, rstrip=False, normalized=False, special=special) | flags


def train_bytes():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok.train_from_iterator(WORDS.split("\n"), trainer)
    tok.decoder = decoders.ByteLevel()
    return json.loads(tok.to_str())


def train_chars():
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    special = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=480, show_progress=False, special_tokens=special)
    tok.train_from_iterator([w for w in WORDS.split()], trainer)
    j = json.loads(tok.to_str())
    j["added_tokens"] = [added("<unk>", 0), added("<s>", 1), added("</s>", 2)]
    j["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    return j


def template(token, id):
    return {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}}


def variants(pattern):
    byte, char = train_bytes(), train_chars()
    split = lambda p: {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
    level = lambda regex, prefix=False: {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}
    seq = lambda *parts: {"type": "Sequence", "pretokenizers": list(parts)}
    flags = [("<L>", dict(lstrip=True)), ("<R>", dict(rstrip=True)), ("<word>", dict(single_word=True, special=False)),
             ("<norm x>", dict(normalized=True, special=False))]

    def with_flags(j):
        n = max(j["model"]["vocab"].values()) + 1
        j["added_tokens"] += [added(c, n + k, **({"special": True} | f)) for k, (c, f) in enumerate(flags)]
        return j

    def of(base, **change):
        j = copy.deepcopy(base)
        for key, value in change.items():
            (j["model"] if key in j["model"] else j)[key] = value
        return j

    meta = lambda scheme, s: {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": s}
    out = {
        "gpt2": of(byte, pre_tokenizer=level(True)),
        "smollm": of(byte, pre_tokenizer=seq({"type": "Digits", "individual_digits": True}, level(True))),
        "prefix": of(byte, pre_tokenizer=level(True, True)),
        "falcon": of(byte, pre_tokenizer=seq({"type": "Punctuation", "behavior": "Contiguous"}, level(True),
                                             {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"))),
        "deepseek-coder": of(byte, pre_tokenizer=seq(split("[\r\n]"), split("\\s?\\p{L}+"), split("\\s?\\p{P}+"),
                                                     split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"),
                                                     {"type": "Digits", "individual_digits": True}, level(False))),
        "deepseek3": of(byte, pre_tokenizer=seq(split(pattern["DIGIT3"]), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                                                split(pattern["DEEPSEEK3"]), level(False))),
        "llama3": with_flags(of(byte, pre_tokenizer=seq(split(pattern["LLAMA3"]), level(False)), ignore_merges=True,
                                post_processor={"type": "Sequence", "processors": [level(True), template("<|im_start|>", 1)]})),
        "qwen2": of(byte, normalizer={"type": "NFC"}, pre_tokenizer=seq(split(pattern["QWEN2"]), level(False))),
        "o200k": of(byte, pre_tokenizer=seq(split(pattern["O200K"]), level(False))),
        "llama2": with_flags(of(char, post_processor=template("<s>", 1))),
        "metaspace-first": with_flags(of(char, normalizer=None, pre_tokenizer=meta("first", False), decoder=meta("first", False))),
        "metaspace-split": with_flags(of(char, normalizer=None, pre_tokenizer=meta("always", True), decoder=meta("always", True))),
        "unknown": of(char, byte_fallback=False),
    }
    pairs = out["o200k"]["model"]
    pairs["merges"] = [m if isinstance(m, list) else m.split(" ") for m in pairs["merges"]]
    legacy = out["gpt2"]["model"]
    legacy["merges"] = [m if isinstance(m, str) else " ".join(m) for m in legacy["merges"]]
    return out


def texts():
    rng = random.Random(1)
    return FIXED + ["".join(rng.choice(POOL) for _ in range(rng.randrange(1, 12))) for _ in range(45)]


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")


def gguf_of(path, j, model, pre=None, skip=()):
    """The same vocabulary as a GGUF file; scores make the merge order where there is no merge list."""
    w = gguf.GGUFWriter(path, "llama")
    vocab = sorted(j["model"]["vocab"].items(), key=lambda kv: kv[1])
    special = {t["content"] for t in j["added_tokens"] if t["special"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in j["model"]["merges"]]
    made = {m.replace(" ", ""): -float(i) for i, m in reversed(list(enumerate(merges)))}
    kind = lambda s: 3 if s in special else 6 if re.fullmatch("<0x[0-9A-F]{2}>", s) else 1
    w.add_tokenizer_model(model)
    w.add_tokenizer_pre(pre or "default")
    w.add_token_list([s for s, _ in vocab])
    w.add_token_types([2 if s == "<unk>" else kind(s) for s, _ in vocab])
    if model == "llama":
        w.add_token_scores([made.get(s, -1e6) for s, _ in vocab])
        w.add_unk_token_id(0)
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
    else:
        w.add_token_merges(merges)
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_add_bos_token(False)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def seeds(corpus):
    """Seeds of the fuzz harnesses: the same kinds, with a handful of tokens each."""
    def model(tokens, merges, **more):
        return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                "fuse_unk": False, "byte_fallback": False, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges} | more

    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    byte = {"added_tokens": [added("<e>", 0), added(" x", 12, False, normalized=True, lstrip=True)], "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
            "post_processor": template("<e>", 0), "decoder": {"type": "ByteLevel"},
            "model": model(["<e>", "a", "b", "c", "\u0120", "1", "2", "\u00c3", "\u00a9", "ab", "\u0120a", "\u0120ab"],
                           ["a b", "\u0120 a", "\u0120 ab"], ignore_merges=True)}
    char = {"added_tokens": [added("<unk>", 0), added("<s>", 1, normalized=True), added("[w]", 13, False, single_word=True, rstrip=True)],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                                                               {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
            "pre_tokenizer": None, "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                                         {"type": "ByteFallback"}, {"type": "Fuse"},
                                                         {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": model(["<unk>", "<s>", "<0x41>", "<0xC3>", "<0xA9>", "\u2581", "a", "b", "c", "\u00e9", "ab", "\u2581ab", "abc"],
                           [["a", "b"], ["\u2581", "ab"], ["ab", "c"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True)}
    for name in ["tokenizer_json", "tokenizer_gguf", "tokenizer_model", "tokenizer_blob"]:
        (corpus / name).mkdir(parents=True, exist_ok=True)
    dump(corpus / "tokenizer_json/byte.json", byte)
    dump(corpus / "tokenizer_json/char.json", char)
    gguf_of(corpus / "tokenizer_gguf/bpe.gguf", byte, "gpt2", "smollm")
    gguf_of(corpus / "tokenizer_gguf/spm.gguf", char, "llama")
    field = lambda number, data: bytes([number << 3 | 2, len(data)]) + data
    piece = lambda s, score, kind: field(1, field(1, s.encode()) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + bytes([3 << 3, kind]))
    spm = b"".join(piece(t, -float(i), 2 if i == 0 else 3 if i == 1 else 6 if t.startswith("<0x") else 1)
                   for i, t in enumerate(char["model"]["vocab"]))
    spm += field(2, bytes([3 << 3, 2])) + field(3, field(1, b"identity") + bytes([4 << 3, 0]))
    (corpus / "tokenizer_model/spm.model").write_bytes(spm)
    (corpus / "tokenizer_model/ranks.model").write_text("IQ== 0\nIg== 1\nIw== 2\nISI= 3\nISIj 4\n")
    (corpus / "tokenizer_blob/patches").write_bytes(b"\x00\x18\x00\xff" + b"\x01\x40\x00\x07\x60\x00\x01")


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "tests/data/tokenizers"
    out.mkdir(parents=True, exist_ok=True)
    seeds(root / "tests/fuzz/corpus")
    cases = texts()
    dump(out / "texts.json", cases)
    made = variants(header_patterns(root))
    for name, j in made.items():
        dump(out / f"{name}.json", j)
        tok = Tokenizer.from_file(str(out / f"{name}.json"))
        special = [tok.encode(t).ids for t in cases]
        tok.encode_special_tokens = True
        plain = [tok.encode(t, add_special_tokens=False).ids for t in cases]
        dump(out / f"{name}.ids.json", {"special": special, "plain": plain, "decoded": [tok.decode(i) for i in plain]})
    gguf_of(out / "smollm.gguf", made["smollm"], "gpt2", "smollm")
    bare = copy.deepcopy(made["llama2"])
    gguf_of(out / "llama-spm.gguf", bare, "llama")
    bare["added_tokens"] = bare["added_tokens"][:3]
    tok = Tokenizer.from_str(json.dumps(bare))
    special = [tok.encode(t).ids for t in cases]
    tok.encode_special_tokens = True
    plain = [tok.encode(t, add_special_tokens=False).ids for t in cases]
    dump(out / "llama-spm.ids.json", {"special": special, "plain": plain, "decoded": [tok.decode(i) for i in plain]})

    words = out / "words.txt"
    words.write_text(WORDS)
    sentencepiece.SentencePieceTrainer.train(
        input=str(words), model_prefix=str(out / "sentencepiece"), model_type="bpe", vocab_size=420, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98, minloglevel=2,
        user_defined_symbols=["<|im_start|>"])
    words.unlink()
    (out / "sentencepiece.vocab").unlink()
    sp = sentencepiece.SentencePieceProcessor(model_file=str(out / "sentencepiece.model"))
    plain = [sp.encode(t) for t in cases]
    dump(out / "sentencepiece.ids.json", {"special": [], "plain": plain, "decoded": [sp.decode(i) for i in plain]})


main()
