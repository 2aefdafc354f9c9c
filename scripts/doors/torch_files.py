"""Writes files as PyTorch, transformers, PEFT, llm.c and llama2.c write them, and what PyTorch computes of each.

    python -m scripts.doors.torch_files FOLDER TEXT

Each case is a folder with the file, and `case.json`: what to give to `kinglet import`, a text with its ids, and the file of
PyTorch's logits in f64 over these ids. `cases.json` lists them.
"""

import copy
import json
import logging
import math
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .torch_models import Lecture, MinGpt, NanoGpt, stir

BLOCK, LAYERS, HEADS, WIDTH = 32, 2, 4, 48
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}


class Cases:
    """The folder of all cases."""

    def __init__(self, folder, text):
        self.folder, self.text, self.all = folder, text, []
        self.chars = sorted(set(text))
        self.ids = [self.chars.index(c) for c in text]
        (folder / "text.txt").write_text(text, encoding="utf-8", newline="")

    def case(self, name):
        path = self.folder / name
        path.mkdir(parents=True)
        return path

    def add(self, name, file, model, options=(), ids=None, block=BLOCK, refused=None, bound=1e-5):
        """A case: PyTorch's logits of `model` over windows of ids, unless it must be refused with certain words."""
        case = {"name": name, "path": str(self.folder / name / file), "options": list(options)}
        if refused is not None:
            case["refused"] = refused
        else:
            ids = self.ids if ids is None else ids
            windows = [ids[i : i + block] for i in range(0, 3 * block, block)]
            np.save(self.folder / name / "logits.npy", computed(model, windows))
            case["loss"] = loss(model, ids, block)
            case |= {"windows": windows, "block": block, "bound": bound}
        self.all.append(case)

    @property
    def by_data(self):
        """The options that say which characters the ids are."""
        return ["--data", str(self.folder / "text.txt")]


@torch.no_grad()
def computed(model, windows):
    """Logits in f64: what PyTorch computes without its rounding, which in f32 is as large as what is looked for."""
    double = model.double().eval()
    out = double(torch.tensor(windows))
    return (out.logits if hasattr(out, "logits") else out).numpy().astype(np.float64)


def loss(model, ids, block):
    """The mean loss over all of a text, window by window; the last one is shorter."""
    total, whole = 0.0, (len(ids) - 1) // block * block
    for windows in (range(0, whole, block), range(whole, len(ids) - 1, block)):
        if len(windows):
            logits = torch.from_numpy(computed(model, [ids[i : min(i + block, len(ids) - 1)] for i in windows]))
            targets = torch.tensor([ids[i + 1 : i + 1 + block] for i in windows])
            total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return total / (len(ids) - 1)


# ---- the lecture's code, nanoGPT's and minGPT's


def lecture(cases):
    new = lambda scale="head_size": stir(Lecture(len(cases.chars), BLOCK, LAYERS, HEADS, WIDTH, scale), 1)  # noqa: E731
    scaled = ["--attention-scale", "head_size", *cases.by_data]

    def case(name, write, model=None, options=None, **more):
        model = model or new()
        path = cases.case(name) / "model.pth"
        write(model, path)
        cases.add(name, "model.pth", model, scaled if options is None else options, **more)

    state = lambda model: model.state_dict()  # noqa: E731
    case("lecture", lambda model, path: torch.save(state(model), path))
    case("lecture-n_embd", lambda model, path: torch.save(state(model), path), new("n_embd"), ["--attention-scale", "n_embd", *cases.by_data])
    case("lecture-legacy", lambda model, path: torch.save(state(model), path, _use_new_zipfile_serialization=False))
    case("lecture-orig-mod", lambda model, path: torch.save({f"_orig_mod.{k}": v for k, v in state(model).items()}, path))
    case("lecture-module", lambda model, path: torch.save({f"module.{k}": v for k, v in state(model).items()}, path))
    case("lecture-both-prefixes", lambda model, path: torch.save({f"module._orig_mod.{k}": v for k, v in state(model).items()}, path))
    case("lecture-no-buffers", lambda model, path: torch.save({k: v for k, v in state(model).items() if "tril" not in k}, path))
    case("lecture-strided", lambda model, path: torch.save({k: strided(v) for k, v in state(model).items()}, path))
    case("lecture-pieces", lambda model, path: torch.save(pieces(state(model)), path))
    case("lecture-checkpoint", lambda model, path: torch.save({
        "epoch": 3, "model_state_dict": state(model), "loss": torch.tensor(1.5), "note": None,
        "optimizer_state_dict": trained(model).state_dict(), "args": {"lr": 1e-3, "betas": (0.9, 0.999)},
    }, path))  # fmt: skip
    case("lecture-numpy-scalar", lambda model, path: torch.save({"model": state(model), "best": np.float64(1.25)}, path))
    for name, dtype in DTYPES.items():
        rounded = new().to(dtype).float() if dtype != torch.float64 else new()
        case(f"lecture-{name}", lambda model, path, dtype=dtype: torch.save({k: v.to(dtype) for k, v in state(model).items()}, path), rounded)
    case("lecture-module-object", lambda model, path: torch.save(model, path))

    broken = state(new())
    broken["blocks.1.ffwd.net.0.weight"] = broken["blocks.1.ffwd.net.0.weight"][:96]
    case("refused-half-a-tensor", lambda _, path: torch.save(broken, path), refused="blocks.1.ffwd.net.0.weight")
    missing = {k: v for k, v in state(new()).items() if k != "blocks.0.ln2.bias"}
    case("refused-missing-tensor", lambda _, path: torch.save(missing, path), refused="blocks.0.ln2.bias")
    unknown = state(new()) | {"blocks.0.gate.weight": torch.zeros(3, 4)}
    case("refused-unknown-tensor", lambda _, path: torch.save(unknown, path), refused="blocks.0.gate.weight")
    wrong = ["--attention-scale", "head_size", "--data", str(cases.folder / "other.txt")]
    (cases.folder / "other.txt").write_text("abc " * 100)
    case("refused-vocabulary", lambda model, path: torch.save(state(model), path), None, wrong, refused=str(len(cases.chars)))


def strided(tensor):
    """The same numbers as a view of a transposed storage."""
    return tensor.mT.contiguous().mT if tensor.dim() == 2 else tensor


def pieces(state):
    """All tensors as views of one storage, each behind the one before."""
    whole = torch.cat([tensor.flatten() for tensor in state.values()])
    out, at = {}, 0
    for name, tensor in state.items():
        out[name] = whole[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    return out


def trained(model):
    """An optimizer that has made a step of no size, so that it has moments."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    optimizer.step()
    return optimizer


def guessed(cases):
    """What a state_dict does not say, and a text decides: by which root the scores were divided when the model learned."""
    for scale in ("head_size", "n_embd"):
        torch.manual_seed(7)
        model = Lecture(len(cases.chars), BLOCK, LAYERS, HEADS, WIDTH, scale)
        learn(model, torch.tensor(cases.ids))
        name = f"lecture-learned-{scale}"
        torch.save(model.state_dict(), cases.case(name) / "model.pth")
        cases.add(name, "model.pth", model, cases.by_data)


def learn(model, ids, steps=400):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        at = torch.randint(len(ids) - BLOCK - 1, (32, 1)) + torch.arange(BLOCK + 1)
        windows = ids[at]
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def nano_gpt(cases):
    size = (len(cases.chars), BLOCK, LAYERS, HEADS, WIDTH)
    for bias in (False, True):
        for compiled in (False, True):
            model = stir(NanoGpt(*size, bias=bias), 2)
            name = f"nanogpt{'-bias' if bias else ''}{'-compiled' if compiled else ''}"
            path = cases.case(name)
            checkpoint(path / "ckpt.pt", model, "_orig_mod." if compiled else "")
            meta(path / "meta.pkl", cases.chars)
            cases.add(name, "ckpt.pt", model, ["--tokenizer", str(path / "meta.pkl")])
    untied = stir(NanoGpt(*size, tied=False), 3)
    checkpoint(cases.case("nanogpt-untied") / "ckpt.pt", untied, "")
    cases.add("nanogpt-untied", "ckpt.pt", untied, cases.by_data)
    model = stir(NanoGpt(*size), 2)
    state = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    torch.save(state, cases.case("nanogpt-no-head") / "model.pt")
    cases.add("nanogpt-no-head", "model.pt", model, ["--n-head", str(HEADS), *cases.by_data])
    model = stir(MinGpt(*size), 4)
    torch.save(model.state_dict(), cases.case("mingpt") / "model.pt")
    cases.add("mingpt", "model.pt", model, ["--n-head", str(HEADS), *cases.by_data])


def checkpoint(path, model, prefix):
    """What nanoGPT's train.py saves."""
    torch.save({
        "model": {prefix + k: v for k, v in model.state_dict().items()},
        "optimizer": trained(model).state_dict(),
        "model_args": model.arguments,
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.75),
        "config": {"dataset": "words", "init_from": "scratch", "wandb_log": False, "compile": bool(prefix), "eval_interval": 250},
    }, path)  # fmt: skip


def meta(path, chars):
    """What nanoGPT's prepare.py of characters saves."""
    itos = dict(enumerate(chars))
    path.write_bytes(pickle.dumps({"vocab_size": len(chars), "itos": itos, "stoi": {c: i for i, c in itos.items()}}))


# ---- transformers


def transformers_folders(cases):
    import transformers as t

    tokenizer = bpe(cases)
    ids = tokenizer(cases.text)["input_ids"]
    v, block = len(tokenizer), 64
    assert len(ids) > 3 * block, "a longer text is wanted"
    heads = dict(num_hidden_layers=LAYERS, num_attention_heads=HEADS, hidden_size=WIDTH, intermediate_size=96)
    common = dict(vocab_size=v, max_position_embeddings=block, bos_token_id=0, eos_token_id=0, pad_token_id=None)
    gqa = heads | common | {"num_key_value_heads": 2}
    gpt2 = dict(vocab_size=v, n_positions=block, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, bos_token_id=0, eos_token_id=0)
    neox = dict(rotary_pct=1.0, use_parallel_residual=False)
    folders = {
        "gpt2": (t.GPT2LMHeadModel, t.GPT2Config(**gpt2)),
        "gpt2-relu-untied": (t.GPT2LMHeadModel, t.GPT2Config(**gpt2, activation_function="relu", tie_word_embeddings=False)),
        "gpt2-gelu-inner": (t.GPT2LMHeadModel, t.GPT2Config(**gpt2, activation_function="gelu", n_inner=80)),
        "gpt2-relu2-eps": (t.GPT2LMHeadModel, t.GPT2Config(**gpt2, activation_function="relu2", layer_norm_epsilon=1e-3)),
        "gptneox": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig(**heads, **common, **neox)),
        "gptneox-plain": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig(**heads, **common, **neox, attention_bias=False, hidden_act="relu", tie_word_embeddings=True)),
        "llama": (t.LlamaForCausalLM, t.LlamaConfig(**heads, **common)),
        "llama-gqa-biases-tied": (t.LlamaForCausalLM, t.LlamaConfig(**gqa, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
        "llama-wide-heads": (t.LlamaForCausalLM, t.LlamaConfig(**gqa, head_dim=20, rms_norm_eps=1e-6, rope_theta=500.0)),
        "qwen2": (t.Qwen2ForCausalLM, t.Qwen2Config(**gqa, use_sliding_window=False)),
        "qwen2-mha-tied": (t.Qwen2ForCausalLM, t.Qwen2Config(**heads, **common, num_key_value_heads=HEADS, tie_word_embeddings=True)),
        "qwen3": (t.Qwen3ForCausalLM, t.Qwen3Config(**gqa, head_dim=16, rms_norm_eps=1e-6)),
        "stablelm": (t.StableLmForCausalLM, t.StableLmConfig(**gqa, partial_rotary_factor=1.0)),
        "stablelm-qkv": (t.StableLmForCausalLM, t.StableLmConfig(**heads, **common, num_key_value_heads=HEADS, partial_rotary_factor=1.0, use_qkv_bias=True)),
        "starcoder2": (t.Starcoder2ForCausalLM, t.Starcoder2Config(**gqa, sliding_window=None)),
        "starcoder2-relu-plain": (t.Starcoder2ForCausalLM, t.Starcoder2Config(**gqa, sliding_window=None, hidden_act="relu", use_bias=False, norm_epsilon=1e-6)),
        "nemotron": (t.NemotronForCausalLM, t.NemotronConfig(**gqa, partial_rotary_factor=1.0, head_dim=12)),
        "arcee": (t.ArceeForCausalLM, t.ArceeConfig(**gqa, head_dim=12)),
    }
    for name, (kind, config) in folders.items():
        try:
            model = stir(kind(config), len(name))
            path = cases.case(f"hf-{name}")
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
            # Nemotron's norms add one to their weights, which f32 rounds.
            cases.add(f"hf-{name}", ".", model, [], ids=ids, block=block, bound=3e-5 if name == "nemotron" else 1e-5)
        except Exception as error:  # A class of another version may take other settings: it is a line of the table.
            cases.all.append({"name": f"hf-{name}", "failed": f"{type(error).__name__}: {error}"})
    variants(cases, t, tokenizer, ids, gqa, gpt2, block)
    refusals(cases, t, tokenizer, gqa, heads, common)
    from . import gguf_written

    gguf_written.check(cases, tokenizer, ids)


def variants(cases, t, tokenizer, ids, gqa, gpt2, block):
    """The same model in the other files that transformers writes."""
    config = t.LlamaConfig(**gqa)
    model = stir(t.LlamaForCausalLM(config), 20)
    path = cases.case("hf-llama-shards")
    model.save_pretrained(path, max_shard_size="40KB")
    tokenizer.save_pretrained(path)
    assert (path / "model.safetensors.index.json").exists()
    cases.add("hf-llama-shards", ".", model, [], ids=ids, block=block)

    model = stir(t.LlamaForCausalLM(config), 21)
    path = cases.case("hf-llama-bf16")
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(path)
    # Only the weights are rounded: the frequencies of the rotations are no part of the file.
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(tensor.to(torch.bfloat16))
    tokenizer.save_pretrained(path)
    cases.add("hf-llama-bf16", ".", model, [], ids=ids, block=block)

    model = stir(t.GPT2LMHeadModel(t.GPT2Config(**gpt2)), 22)
    path = cases.case("hf-gpt2-bin")
    model.config.save_pretrained(path)
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    tokenizer.save_pretrained(path)
    cases.add("hf-gpt2-bin", ".", model, [], ids=ids, block=block)

    # GPT-2 as it was published: without the prefix, and with the masks of an old version.
    path = cases.case("hf-gpt2-as-published")
    model = stir(t.GPT2LMHeadModel(t.GPT2Config(**gpt2)), 23)
    state = {k.removeprefix("transformer."): v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    state |= {f"h.{i}.attn.bias": torch.ones(block, block).tril().view(1, 1, block, block) for i in range(LAYERS)}
    from safetensors.torch import save_file

    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(path)
    tokenizer.save_pretrained(path)
    cases.add("hf-gpt2-as-published", ".", model, [], ids=ids, block=block)


def refusals(cases, t, tokenizer, gqa, heads, common):
    """Settings that kinglet has no shape for, each to be refused by its name."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 10000.0}
    wanted = {
        "yarn": (t.LlamaForCausalLM, t.LlamaConfig(**gqa, rope_parameters=yarn), "yarn"),
        "sliding-window": (t.MistralForCausalLM, t.MistralConfig(**gqa, sliding_window=8), "sliding_window"),
        "parallel-residual": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig(**heads, **common, rotary_pct=1.0), "use_parallel_residual"),
        "part-rotary": (t.GPTNeoXForCausalLM, t.GPTNeoXConfig(**heads, **common, use_parallel_residual=False, rotary_pct=0.5), "rotary"),
        "experts": (t.MixtralForCausalLM, t.MixtralConfig(**gqa, num_local_experts=2), "mixtral"),
    }
    for name, (kind, config, word) in wanted.items():
        path = cases.case(f"refused-{name}")
        kind(config).save_pretrained(path)
        tokenizer.save_pretrained(path)
        cases.add(f"refused-{name}", ".", None, refused=word)


def bpe(cases):
    """A byte pair encoding as transformers stores it."""
    import tokenizers as tk
    import transformers as t

    inner = tk.Tokenizer(tk.models.BPE())
    inner.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tk.decoders.ByteLevel()
    alphabet = tk.pre_tokenizers.ByteLevel.alphabet()
    trainer = tk.trainers.BpeTrainer(vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([cases.text], trainer)
    return t.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


# ---- files of C programs, and the published int8


def c_files(cases):
    import transformers as t

    v, block = len(cases.chars), BLOCK
    config = t.GPT2Config(vocab_size=v, n_positions=block, n_layer=LAYERS, n_head=HEADS, n_embd=WIDTH, bos_token_id=None, eos_token_id=None)
    for version, kind in ((3, torch.float32), (5, torch.bfloat16)):
        model = stir(t.GPT2LMHeadModel(config), 30).to(kind).float()
        path = cases.case(f"llm.c-version-{version}")
        llm_c(path / "model.bin", model, version, kind)
        cases.add(path.name, "model.bin", model, cases.by_data)
    for name, shared, new in (("llama2.c", True, False), ("llama2.c-untied", False, False), ("llama2.c-version-1", False, True)):
        llama = t.LlamaConfig(
            vocab_size=v, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            num_key_value_heads=2, max_position_embeddings=block, rms_norm_eps=1e-5, tie_word_embeddings=shared,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        model = stir(t.LlamaForCausalLM(llama), 31)
        path = cases.case(name)
        llama2_c(path / "model.bin", model, shared, new)
        cases.add(name, "model.bin", model, cases.by_data)
    published_int8(cases)


def llm_c(path, model, version, kind):
    """llm.c's checkpoint: 256 numbers, then the tensors, kind by kind over all layers; the vocabulary padded to 128."""
    config, state = model.config, model.state_dict()
    v = config.vocab_size
    padded = (v + 127) // 128 * 128
    header = np.zeros(256, np.int32)
    header[:8] = [20240326, version, config.n_positions, v, config.n_layer, config.n_head, config.n_embd, padded]
    layer = lambda name: [state[f"transformer.h.{i}.{name}"] for i in range(config.n_layer)]  # noqa: E731
    turned = lambda name: [w.T for w in layer(name)]  # noqa: E731
    parts = [F.pad(state["transformer.wte.weight"], (0, 0, 0, padded - v)), state["transformer.wpe.weight"]]
    for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
        weights = layer(f"{name}.weight") if name.startswith("ln") else turned(f"{name}.weight")
        parts += weights + layer(f"{name}.bias")
    parts += [state["transformer.ln_f.weight"], state["transformer.ln_f.bias"]]
    with open(path, "wb") as file:
        file.write(header.tobytes())
        for part in parts:
            part = part.contiguous().to(kind)
            file.write((part.view(torch.int16) if kind == torch.bfloat16 else part).numpy().tobytes())


def llama2_c(path, model, shared, new):
    """llama2.c's: rotations of neighbouring pairs, seven numbers of header, or version 1 with its magic."""
    config, state = model.config, {k.removeprefix("model."): v for k, v in model.state_dict().items()}
    width, heads, layers, block = config.hidden_size, config.num_attention_heads, config.num_hidden_layers, config.max_position_embeddings
    size = width // heads

    def pairs(w):
        return w.view(-1, 2, size // 2, width).transpose(1, 2).reshape(w.shape)

    layer = lambda name: [state[f"layers.{i}.{name}.weight"] for i in range(layers)]  # noqa: E731
    matrices = [pairs(w) for w in layer("self_attn.q_proj")], [pairs(w) for w in layer("self_attn.k_proj")]
    norms, mlp = ("input_layernorm", "post_attention_layernorm"), ("gate", "down", "up")
    sizes = [width, config.intermediate_size, layers, heads, config.num_key_value_heads, config.vocab_size, block]
    with open(path, "wb") as file:
        write = lambda tensors: [file.write(w.contiguous().float().numpy().tobytes()) for w in tensors]  # noqa: E731
        if new:
            file.write(struct.pack("<Ii7iB", 0x616B3432, 1, *sizes, shared).ljust(256, b"\0"))
            write(layer(norms[0]) + layer(norms[1]) + [state["norm.weight"], state["embed_tokens.weight"]])
            write([*matrices[0], *matrices[1], *layer("self_attn.v_proj"), *layer("self_attn.o_proj")])
            write(w for part in mlp for w in layer(f"mlp.{part}_proj"))
        else:
            sizes[5] *= 1 if shared else -1
            file.write(struct.pack("<7i", *sizes))
            write([state["embed_tokens.weight"], *layer(norms[0])])
            write([*matrices[0], *matrices[1], *layer("self_attn.v_proj"), *layer("self_attn.o_proj"), *layer(norms[1])])
            write(w for part in mlp for w in layer(f"mlp.{part}_proj"))
            angles = torch.outer(torch.arange(block), 10000.0 ** (-torch.arange(0, size, 2) / size))
            write([state["norm.weight"], angles.cos(), angles.sin()])
        if not shared:
            write([model.state_dict()["lm_head.weight"]])


def published_int8(cases):
    """The lecture's model with its linear layers as bytes and a scale for each row."""
    published = {"int8-published": (LAYERS, HEADS, WIDTH), "int8-big-0.2m": (4, 4, 64)}
    for name, sizes in published.items():
        model = stir(Lecture(len(cases.chars), BLOCK, *sizes, "n_embd"), 32)
        path = cases.case(name)
        torch.save(in_bytes(model), path / "model.pth")
        cases.add(name, "model.pth", model, ["--attention-scale", "n_embd", *cases.by_data])


def in_bytes(model):
    """What is stored; the model becomes what it says."""
    state = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("blocks."):
            scales = module.weight.detach().abs().amax(1, keepdim=True) / 127
            bytes_ = (module.weight.detach() / scales).round().to(torch.int8)
            with torch.no_grad():
                module.weight.copy_(bytes_.float() * scales)
            state |= {f"{name}.int8_weights": bytes_, f"{name}.scales": scales}
    rest = {k: v for k, v in model.state_dict().items() if k.removesuffix(".weight") + ".scales" not in state}
    return state | rest


def main():
    folder, text = Path(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf-8")
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    folder.mkdir(parents=True, exist_ok=True)
    cases = Cases(folder, text)
    for part in (lecture, guessed, nano_gpt, c_files, transformers_folders):
        part(cases)
    (folder / "cases.json").write_text(json.dumps(cases.all))


if __name__ == "__main__":
    main()
