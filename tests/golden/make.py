#!/usr/bin/env python3
"""Makes tests/data/arch: for every architecture description tiny random checkpoints with float64 golden logits.

    pip install torch transformers safetensors gguf numpy
    python tests/golden/make.py [NAME...]          # writes tests/data/arch/NAME/

Not run by the tests. The files are committed; a run with the same versions writes the same bytes (README.md there
names the versions). The model is built by transformers from the very config.json that is committed, its weights are
drawn here (seeded), rounded to the storage type, and the forward pass runs in float64 throughout: torch.float32 is
replaced by torch.float64 while it runs, because transformers computes norms and RoPE angles in "torch.float32"
whatever the model's type.

golden.json: tokens (the prompt), rows {position: logits of that position}, greedy (ids that follow the prompt),
margins (of each greedy choice over the second best).
"""
import json
import pathlib
import sys
from unittest import mock

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent / "data" / "arch"
VOCAB, PROMPT, GREEDY = 96, 24, 16

V4 = {"torch_dtype": "float32", "transformers_version": "4.41.2", "use_cache": True, "bos_token_id": 1, "eos_token_id": 2}
V5 = {"dtype": "float32", "transformers_version": "5.0.0", "use_cache": True, "bos_token_id": 1, "eos_token_id": 2}


def llama(**more):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "vocab_size": VOCAB, "attention_bias": False,
            "mlp_bias": False, "tie_word_embeddings": False, **more}


def family(arch, model_type, **more):
    c = llama(architectures=[arch], model_type=model_type, **more)
    del c["attention_bias"], c["mlp_bias"]
    return c


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}

# name -> config.json, storage type, GGUF storage (None: safetensors)
CASES = {
    "llama-linear": (llama(**V4, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 4.0}, tie_word_embeddings=True), "f32", None),
    "llama-llama3": (llama(**V5, head_dim=12, rope_parameters={"rope_theta": 500000.0, **LLAMA3}), "bf16", None),
    "llama-llama3-v4": (llama(**V4, num_key_value_heads=4, rope_theta=10000.0, rope_scaling=LLAMA3), "bf16", None),
    "llama-bias": (llama(**V4, rope_theta=10000.0, rope_scaling=None, attention_bias=True, mlp_bias=True), "f32", None),
    "mistral-window": (family("MistralForCausalLM", "mistral", **V4, rope_theta=10000.0, sliding_window=7, head_dim=16), "bf16", None),
    "mistral-v5": (family("MistralForCausalLM", "mistral", **V5, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                          sliding_window=None, head_dim=None), "bf16", None),
    "qwen2-window": (family("Qwen2ForCausalLM", "qwen2", **V4, num_hidden_layers=3, rope_theta=1000000.0, use_sliding_window=True,
                            sliding_window=9, max_window_layers=1), "bf16", None),
    "qwen2-v5": (family("Qwen2ForCausalLM", "qwen2", **V5, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                        use_sliding_window=True, sliding_window=6, max_window_layers=2,
                        layer_types=["sliding_attention", "full_attention"], tie_word_embeddings=True), "bf16", None),
    "qwen3": (family("Qwen3ForCausalLM", "qwen3", **V4, rope_theta=1000000.0, head_dim=16, attention_bias=False, use_sliding_window=False,
                     sliding_window=None, max_window_layers=2, tie_word_embeddings=True), "bf16", None),
    "qwen3-v5": (family("Qwen3ForCausalLM", "qwen3", **V5, head_dim=10, attention_bias=True,
                        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}, use_sliding_window=False,
                        sliding_window=None, layer_types=["full_attention", "full_attention"]), "bf16", None),
    "phi3": (family("Phi3ForCausalLM", "phi3", **V4, rope_theta=10000.0, rope_scaling=None, sliding_window=11, pad_token_id=0,
                    original_max_position_embeddings=128), "f32", None),
    "phi3-partial": (family("Phi3ForCausalLM", "phi3", **V5, partial_rotary_factor=0.75,
                            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
                            sliding_window=None, pad_token_id=0, original_max_position_embeddings=128), "bf16", None),
    "gguf-llama": (llama(**V4, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2.0}, attention_bias=True), "f32", "F32"),
    "gguf-llama-f16": (llama(**V4, rope_theta=500000.0, rope_scaling=None, head_dim=16, tie_word_embeddings=True), "f16", "F16"),
    "gguf-llama3": (llama(**V5, rope_parameters={"rope_theta": 10000.0, **LLAMA3}), "f32", "F32"),
    "gguf-qwen2": (family("Qwen2ForCausalLM", "qwen2", **V4, rope_theta=1000000.0, use_sliding_window=False, sliding_window=None,
                          max_window_layers=2), "f16", "F16"),
    "gguf-qwen3": (family("Qwen3ForCausalLM", "qwen3", **V4, rope_theta=1000000.0, head_dim=16, attention_bias=False, use_sliding_window=False,
                          sliding_window=None, max_window_layers=2, tie_word_embeddings=True), "f16", "F16"),
    "gguf-phi3": (family("Phi3ForCausalLM", "phi3", **V4, rope_theta=10000.0, rope_scaling=None, sliding_window=10, pad_token_id=0,
                         original_max_position_embeddings=128), "f16", "F16"),
}
SHARDED = "mistral-v5"  # saved as two files with an index
STORE = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Float64:
    """While active, torch's float32 is float64 for whoever names it."""

    def __enter__(self):
        f64 = torch.float64
        self.patches = [mock.patch.object(torch, n, f64) for n in ("float32", "float")]
        self.patches.append(mock.patch.object(torch.Tensor, "float", lambda t: t.to(f64)))
        for p in self.patches:
            p.start()
        self.default = torch.get_default_dtype()
        torch.set_default_dtype(f64)

    def __exit__(self, *_):
        torch.set_default_dtype(self.default)
        for p in self.patches:
            p.stop()


def draw(state, store, seed, tied):
    """Weights that make every feature matter: attention is far from uniform, gains far from one, biases not small."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name in sorted(state):
        shape = state[name].shape
        x = torch.randn(shape, generator=g, dtype=torch.float64)
        if name.endswith("norm.weight"):
            x = 1 + 0.3 * x
        elif name.endswith("bias"):
            x = 0.3 * x
        elif "embed" in name:
            x = (0.25 if tied else 0.7) * x  # a tied one must not only repeat its input
        else:
            x = x * (1.3 / shape[-1] ** 0.5)
        if "q_proj.weight" in name or "k_proj.weight" in name:
            x = 1.6 * x
        if "qkv_proj" in name:
            x = 1.4 * x
        out[name] = x.to(store)
    return out


def golden(model, seed):
    g = torch.Generator().manual_seed(seed + 1)
    tokens = torch.randint(3, VOCAB, (PROMPT,), generator=g).tolist()
    ids, greedy, margins = list(tokens), [], []
    with torch.no_grad(), Float64():
        rows = model(torch.tensor([ids]), use_cache=False).logits[0]
        assert rows.dtype == torch.float64
        keep = {i: rows[i].tolist() for i in (0, PROMPT // 2, PROMPT - 1)}
        for _ in range(GREEDY):
            last = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
            top = torch.topk(last, 2)
            greedy.append(int(top.indices[0]))
            margins.append(round(float(top.values[0] - top.values[1]), 6))
            ids.append(greedy[-1])
    rounded = {str(i): [float(f"{v:.10g}") for v in r] for i, r in keep.items()}
    return {"tokens": tokens, "rows": rounded, "greedy": greedy, "margins": margins}


HF_TO_GGUF = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"), ("model.layers.", "blk."),
              ("self_attn.qkv_proj", "attn_qkv"), ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
              ("self_attn.o_proj", "attn_output"), ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
              ("post_attention_layernorm", "ffn_norm"), ("input_layernorm", "attn_norm"), ("mlp.gate_up_proj", "ffn_up"),
              ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")]


def pair_order(x, heads):
    """The row order of q and k in a llama GGUF: element i and i + d/2 of a head become neighbours."""
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write_gguf(path, config, state, wtype):
    c, arch = config, config["model_type"]
    w = gguf.GGUFWriter(str(path), arch)
    w.add_name(path.stem)
    w.add_block_count(c["num_hidden_layers"])
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    scaling = c.get("rope_scaling") or c.get("rope_parameters") or {}
    w.add_rope_freq_base(c.get("rope_theta") or scaling["rope_theta"])
    head_dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    if c.get("head_dim"):
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    if c.get("sliding_window"):
        w.add_sliding_window(c["sliding_window"])
    if scaling.get("type") == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "llama3":  # as convert_hf_to_gguf does: divisors of the frequencies
        w.add_tensor("rope_freqs.weight", llama3_divisors(scaling, head_dim))
    for name, x in state.items():
        if name == "lm_head.weight" and c["tie_word_embeddings"]:
            continue
        x = x.to(torch.float32).numpy()
        if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
            x = pair_order(x, c["num_attention_heads"] if ".q_proj." in name else c["num_key_value_heads"])
        for a, b in HF_TO_GGUF:
            name = name.replace(a, b)
        w.add_tensor(name, np.ascontiguousarray(x).astype(np.float16 if wtype == "F16" and x.ndim == 2 else np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def llama3_divisors(s, head_dim):
    freqs = 1.0 / (s["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim))
    low = s["original_max_position_embeddings"] / s["low_freq_factor"]
    high = s["original_max_position_embeddings"] / s["high_freq_factor"]
    out = []
    for wavelen in 2 * np.pi / freqs:
        if wavelen < high:
            out.append(1.0)
        elif wavelen > low:
            out.append(s["factor"])
        else:
            t = (s["original_max_position_embeddings"] / wavelen - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
            out.append(1 / ((1 - t) / s["factor"] + t))
    return np.array(out, dtype=np.float32)


def save_shards(folder, state):
    """Two files and the index that transformers writes beside them."""
    names = sorted(state)
    index = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        save_file({k: state[k] for k in part}, folder / file, metadata={"format": "pt"})
        index.update({k: file for k in part})
    size = sum(v.numel() * v.element_size() for v in state.values())
    text = json.dumps({"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))}, indent=2)
    (folder / "model.safetensors.index.json").write_text(text + "\n")


def make(name, seed):
    config, store, gguf_type = CASES[name]
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    for f in folder.iterdir():
        f.unlink()
    config = {**config, **({"torch_dtype": {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}[store]} if "torch_dtype" in config else {})}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    with Float64():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="sdpa").double().eval()
    state = {k: v for k, v in model.state_dict().items() if not (k == "lm_head.weight" and config["tie_word_embeddings"])}
    keep = draw(state, STORE[store], seed, config["tie_word_embeddings"])
    if gguf_type:  # vectors stay in f32 there
        keep = {k: (v if v.ndim == 2 else v.to(torch.float32)) for k, v in keep.items()}
    missing = model.load_state_dict({k: v.double() for k, v in keep.items()}, strict=False)
    assert not missing.unexpected_keys and all(k == "lm_head.weight" for k in missing.missing_keys), missing
    model.tie_weights()
    g = golden(model, seed)
    (folder / "golden.json").write_text(json.dumps(g, separators=(",", ":")).replace("],", "],\n") + "\n")
    if gguf_type:
        write_gguf(folder / f"{name}.gguf", config, keep, gguf_type)
        (folder / "config.json").unlink()
    elif name == SHARDED:
        save_shards(folder, keep)
    else:
        save_file(keep, folder / "model.safetensors", metadata={"format": "pt"})
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: {size} bytes, smallest margin {min(g['margins'])}, greedy {g['greedy']}")


if __name__ == "__main__":
    for i, case in enumerate(CASES):
        if len(sys.argv) < 2 or case in sys.argv[1:]:
            make(case, 1000 + i)
