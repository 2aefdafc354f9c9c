#!/usr/bin/env python3
"""Writes tests/fixtures/foreign: tiny random models as PyTorch, transformers, llm.c and llama2.c write them, each with the
logits that PyTorch computes. It needs torch, transformers, safetensors and peft:

    python3 scripts/foreign.py              # with --adapters those of PEFT alone, for the models that are there
"""

import json
import math
import pathlib
import pickle
import struct
import sys

# Not scripts/tokenizers.py.
sys.path.pop(0)

import torch
from torch import nn
from torch.nn import functional as F

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "foreign"
V, C, T, HEADS = 11, 8, 8, 2
IDS = [1, 5, 0, 10, 7, 7, 2]
CHARS = "\n !;abcdefg"


def shake(model, seed):
    """Every parameter gets numbers of its own, norms and biases included."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape) * 0.4 + ("ln" in name or "norm" in name) * 1.0)
    return model.eval()


def expect(name, logits):
    """The logits that PyTorch computed for IDS."""
    numbers = [float(f"{x:.8g}") for x in logits.detach().double().reshape(-1).tolist()]
    (OUT / f"{name}.logits.json").write_text(json.dumps({"ids": IDS, "logits": numbers}, separators=(",", ":")) + "\n")


# The names of the lecture's code; attention is scaled by the number of channels, as in the video.
class Head(nn.Module):
    def __init__(self):
        super().__init__()
        size = C // HEADS
        self.key, self.query, self.value = (nn.Linear(C, size, bias=False) for _ in range(3))
        self.register_buffer("tril", torch.tril(torch.ones(T, T)))

    def forward(self, x):
        t = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * C**-0.5
        return scores.masked_fill(self.tril[:t, :t] == 0, -math.inf).softmax(-1) @ self.value(x)


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(Head() for _ in range(HEADS))
        self.proj = nn.Linear(C, C)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.heads], -1))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(C, 4 * C), nn.ReLU(), nn.Linear(4 * C, C), nn.Dropout(0.0))

    def forward(self, x):
        return self.net(x)


class LectureBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.sa, self.ffwd, self.ln1, self.ln2 = Heads(), FeedForward(), nn.LayerNorm(C), nn.LayerNorm(C)

    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd(self.ln2(x))


class Lecture(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.token_embedding_table = nn.Embedding(V, C)
        self.position_embedding_table = nn.Embedding(T, C)
        self.blocks = nn.Sequential(*(LectureBlock() for _ in range(blocks)))
        self.ln_f, self.lm_head = nn.LayerNorm(C), nn.Linear(C, V)

    def forward(self, ids):
        x = self.token_embedding_table(ids) + self.position_embedding_table(torch.arange(ids.shape[1]))
        return self.lm_head(self.ln_f(self.blocks(x)))


# The names of nanoGPT and of minGPT.
class Attention(nn.Module):
    def __init__(self, bias, mask):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C, bias=bias), nn.Linear(C, C, bias=bias)
        if mask:
            self.register_buffer("bias", torch.tril(torch.ones(T, T)).view(1, 1, T, T))

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (part.view(b, t, HEADS, -1).transpose(1, 2) for part in self.c_attn(x).split(C, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(b, t, C))


class Mlp(nn.Module):
    def __init__(self, bias, approximate):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(C, 4 * C, bias=bias), nn.Linear(4 * C, C, bias=bias)
        self.approximate = approximate

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.approximate))


class GptBlock(nn.Module):
    def __init__(self, bias, approximate, mask):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(C, bias=bias), nn.LayerNorm(C, bias=bias)
        self.attn, self.mlp = Attention(bias, mask), Mlp(bias, approximate)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, bias, approximate="none", mask=False, tied=True, blocks=1):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(V, C), "wpe": nn.Embedding(T, C),
            "h": nn.ModuleList([GptBlock(bias, approximate, mask) for _ in range(blocks)]), "ln_f": nn.LayerNorm(C, bias=bias),
        })
        self.lm_head = nn.Linear(C, V, bias=False)
        if tied:
            self.transformer.wte.weight = self.lm_head.weight

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.shape[1]))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


def save(it, name, is_zip=False):
    """The older format is smaller."""
    torch.save(it, OUT / name, _use_new_zipfile_serialization=is_zip)


def lecture():
    ids = torch.tensor([IDS])
    model = shake(Lecture(2), 1)
    expect("lecture-legacy", model(ids))
    save(model.state_dict(), "lecture-legacy.pth")
    model = shake(Lecture(1), 1)
    expect("lecture", model(ids))
    save(model.state_dict(), "lecture.pth", is_zip=True)
    save(model, "lecture-module.pt", is_zip=True)
    state = model.state_dict()
    for name in [name for name in state if name.startswith("blocks.") and name.endswith(".weight") and state[name].dim() == 2]:
        weight = state.pop(name)
        scales = weight.abs().amax(1) / 127
        int8 = (weight / scales[:, None]).round().to(torch.int8)
        module = model.get_submodule(name.removesuffix(".weight"))
        module.weight.data = int8.float() * scales[:, None]
        state[name.removesuffix("weight") + "int8_weights"], state[name.removesuffix("weight") + "scales"] = int8, scales
    save(state, "lecture-int8.pth")
    expect("lecture-int8", model(ids))


def nanogpt():
    ids = torch.tensor([IDS])
    model = shake(Gpt(bias=False), 2)
    optimizer = torch.optim.AdamW([model.transformer.ln_f.weight], lr=1e-9)
    model(ids).sum().backward()
    optimizer.step()
    expect("nanogpt", model(ids))
    save({
        "model": {"_orig_mod." + name: p for name, p in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "model_args": {"n_layer": 1, "n_head": HEADS, "n_embd": C, "block_size": T, "bias": False, "vocab_size": V, "dropout": 0.1},
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "learning_rate": 1e-3, "max_iters": 5000, "init_from": "scratch", "wandb_run_name": None},
    }, "nanogpt.pt", is_zip=True)
    (OUT / "meta.pkl").write_bytes(pickle.dumps({
        "vocab_size": V, "itos": dict(enumerate(CHARS)), "stoi": {c: i for i, c in enumerate(CHARS)},
    }))

    mingpt = shake(Gpt(bias=True, approximate="tanh", mask=True, tied=False), 3)
    expect("mingpt", mingpt(ids))
    save({"module." + name: p for name, p in mingpt.state_dict().items()}, "mingpt.pt")

    # Every way in which numbers are stored, and views that are not contiguous.
    mixed = shake(Gpt(bias=True, approximate="none", tied=False), 4)
    types = [torch.float16, torch.bfloat16, torch.float64, torch.float32]
    state = {}
    for i, (name, p) in enumerate(mixed.state_dict().items()):
        stored = p.to(types[i % 4])
        p.data.copy_(stored.float())
        if p.dim() == 2:
            stored = stored.t().contiguous().t() if i % 3 else torch.cat([stored, stored], 1)[:, : p.shape[1]]
        state[name] = stored
    mixed.transformer.ln_f.weight.data.fill_(1.25)
    state["transformer.ln_f.weight"] = torch.tensor([1.25]).expand(C)
    expect("mixed", mixed(ids))
    save({"state_dict": state, "epoch": 3}, "mixed.pt", is_zip=True)


def hugging_face():
    import transformers as t

    llama = dict(vocab_size=V, hidden_size=C, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
                 intermediate_size=12, max_position_embeddings=16)
    models = {
        "gpt2": t.GPT2Config(vocab_size=V, n_embd=C, n_layer=2, n_head=HEADS, n_positions=T),
        "gpt_neox": t.GPTNeoXConfig(
            **{k: v for k, v in llama.items() if k != "num_key_value_heads"}, use_parallel_residual=False,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}),
        "llama": t.LlamaConfig(**{**llama, "num_hidden_layers": 2}, rms_norm_eps=1e-5),
        "mistral": t.MistralConfig(**llama, sliding_window=None, tie_word_embeddings=True),
        "qwen2": t.Qwen2Config(**llama, rms_norm_eps=1e-3),
        "qwen3": t.Qwen3Config(**llama, head_dim=6),
        "stablelm": t.StableLmConfig(**llama, use_qkv_bias=True, rope_parameters={
            "rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0}),
        "starcoder2": t.Starcoder2Config(**llama),
        "nemotron": t.NemotronConfig(**llama, rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}),
        "arcee": t.ArceeConfig(**llama, attention_bias=True),
    }
    for name, config in models.items():
        model = shake(t.AutoModelForCausalLM.from_config(config), 5)
        model.save_pretrained(OUT / name)
        (OUT / name / "generation_config.json").unlink(missing_ok=True)
        expect(name, model(torch.tensor([IDS])).logits)
        if name == "gpt2":
            llm_c(model.state_dict())
            model.load_state_dict({k: p.bfloat16().float() for k, p in model.state_dict().items()})
            expect("llm.c-bf16", model(torch.tensor([IDS])).logits)
        if name == "llama":
            llama2_c(model)


def llm_c(state):
    """As llm.c's train_gpt2.py writes GPT-2: f32 and bf16, the vocabulary padded to 16."""
    padded = 16
    for name, version, dtype in [("llm.c.bin", 3, torch.float32), ("llm.c-bf16.bin", 5, torch.bfloat16)]:
        header = [20240326, version, T, V, 2, HEADS, C, padded] + [0] * 248
        data = [struct.pack("<256i", *header)]

        def add(p):
            data.append(p.contiguous().to(dtype).view(torch.uint8).numpy().tobytes())

        add(F.pad(state["transformer.wte.weight"], (0, 0, 0, padded - V)))
        add(state["transformer.wpe.weight"])
        for part in ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]:
            for suffix in ["weight", "bias"]:
                for block in range(2):
                    p = state[f"transformer.h.{block}.{part}.{suffix}"]
                    add(p.t() if p.dim() == 2 else p)
        add(state["transformer.ln_f.weight"])
        add(state["transformer.ln_f.bias"])
        (OUT / name).write_bytes(b"".join(data))


def llama2_c(model):
    """As llama2.c's export.py writes: the oldest format, and versions 1 and 2 of the next one."""
    state, config = model.state_dict(), model.config
    size = C // config.num_attention_heads

    def pairs(w):
        return w.view(-1, 2, size // 2, C).transpose(1, 2).reshape(w.shape)

    def of(name, change=lambda w: w):
        return [change(state[f"model.layers.{block}.{name}.weight"]) for block in range(config.num_hidden_layers)]

    attention_norm, mlp_norm = of("input_layernorm"), of("post_attention_layernorm")
    matrices = [of("self_attn.q_proj", pairs), of("self_attn.k_proj", pairs), of("self_attn.v_proj"), of("self_attn.o_proj"),
                of("mlp.gate_proj"), of("mlp.down_proj"), of("mlp.up_proj")]
    norm, wte, head = state["model.norm.weight"], state["model.embed_tokens.weight"], state["lm_head.weight"]
    sizes = [C, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads]

    def pack(tensors):
        return b"".join(p.contiguous().numpy().tobytes() for p in tensors)

    tables = torch.zeros(2 * T, size // 2)
    (OUT / "llama2.c.bin").write_bytes(
        struct.pack("<7i", *sizes, -V, T) + pack([wte, *attention_norm, *sum(matrices[:4], []), *mlp_norm, *sum(matrices[4:], [])])
        + pack([norm, tables, head]))
    begin = struct.pack("<Ii7iB", 0x616B3432, 1, *sizes, V, T, 0)
    (OUT / "llama2.c-ak42.bin").write_bytes(
        begin.ljust(256, b"\0") + pack([*attention_norm, *mlp_norm, norm, wte, *sum(matrices, []), head]))
    begin = struct.pack("<Ii7iBi", 0x616B3432, 2, *sizes, V, T, 0, 4)
    data = [begin.ljust(256, b"\0"), pack([*attention_norm, *mlp_norm, norm])]
    for w in [wte, *sum(matrices, []), head]:
        groups = w.reshape(-1, 4)
        scales = groups.abs().amax(1) / 127
        data += [pack([(groups / scales[:, None]).round().to(torch.int8)]), pack([scales])]
    (OUT / "llama2.c-int8.bin").write_bytes(b"".join(data))


def adapters():
    """Adapters that PEFT saves, for the models that are there already, each with the logits of both together."""
    import peft
    import transformers as t

    rows = ["q_proj", "v_proj", "up_proj", "down_proj"]
    cases = {
        # name: (model, file of safetensors, settings)
        "gpt2": ("gpt2", True, {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
        "patterns": ("llama", True, {"r": 2, "lora_alpha": 5, "target_modules": rows, "rank_pattern": {"q_proj": 3},
                                     "alpha_pattern": {"v_proj": 4, "^model.layers.1.mlp.up_proj": -3}}),
        "rslora": ("llama", False, {"r": 3, "lora_alpha": 4, "target_modules": ["k_proj", "o_proj", "gate_proj"],
                                    "use_rslora": True, "layers_to_transform": [1], "layers_pattern": "layers"}),
        "neox": ("gpt_neox", True, {"r": 2, "lora_alpha": 3, "target_modules": ["query_key_value", "dense_h_to_4h"], "bias": "all"}),
        "saved": ("qwen3", True, {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj"], "exclude_modules": ["layers.9.q_proj"],
                                  "modules_to_save": ["lm_head", "embed_tokens"]}),
        "saved-embedding": ("mistral", True, {"r": 1, "lora_alpha": 2, "target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"]}),
        "saved-head": ("mistral", True, {"r": 1, "lora_alpha": 2, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"]}),
        "head": ("mistral", True, {"r": 2, "lora_alpha": 2, "target_modules": ["lm_head", "o_proj"]}),
        "all-linear": ("nemotron", True, {"r": 2, "lora_alpha": 4, "target_modules": "all-linear", "modules_to_save": ["model.norm"]}),
    }  # fmt: skip
    folder = OUT / "peft"

    def save(name, base, model, safe=True):
        torch.manual_seed(9)
        with torch.no_grad():
            for part, p in model.named_parameters():
                if "lora_" in part or p.requires_grad:
                    p.add_(torch.randn(p.shape) * 0.4)
        model.eval()
        model.peft_config["default"].base_model_name_or_path = f"../../{base}"
        model.save_pretrained(folder / name, safe_serialization=safe)
        (folder / name / "README.md").unlink()
        out = model(torch.tensor([IDS]))
        expect(f"peft/{name}", getattr(out, "logits", out))

    for name, (base, safe, settings) in cases.items():
        model = t.AutoModelForCausalLM.from_pretrained(OUT / base)
        config = peft.LoraConfig(task_type="CAUSAL_LM", **settings)
        save(name, base, peft.get_peft_model(model, config), safe)
    # Any module of PyTorch's can be adapted: here the lecture's, whose heads are modules.
    model = Lecture(1)
    model.load_state_dict(torch.load(OUT / "lecture.pth"))
    config = peft.LoraConfig(r=1, lora_alpha=3, target_modules=["query", "value", "net.0", "lm_head"])
    save("lecture", "lecture.pth", peft.get_peft_model(model, config))


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    if "--adapters" not in sys.argv:
        lecture()
        nanogpt()
        hugging_face()
    adapters()
    total = sum(path.stat().st_size for path in OUT.rglob("*") if path.is_file())
    print(f"{OUT}: {total} bytes")
