"""Writes the beginnings of fuzz/corpus for the readers of foreign files: the smallest model of each kind. Written once.

    python -m scripts.doors.seeds         # in an environment with PyTorch and transformers
"""

import io
import json
import tempfile
from pathlib import Path

import torch
import transformers as t
from safetensors.torch import save

from . import gguf_written
from .environments import ROOT
from .torch_files import checkpoint, in_bytes, llama2_c, llm_c, meta
from .torch_models import Lecture, NanoGpt, stir

CORPUS = ROOT / "fuzz" / "corpus"
# A vocabulary, a block, layers, heads, channels.
SIZE = (5, 4, 1, 1, 4)


def write(kind, name, data):
    folder = CORPUS / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    print(f"{kind}/{name}: {len(data)} bytes")


def pickled(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def by(writer, *args):
    """The bytes of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        writer(path, *args)
        return path.read_bytes()


def main():
    lecture, nano = stir(Lecture(*SIZE), 1), stir(NanoGpt(*SIZE), 2)
    write("pytorch", "lecture", pickled(lecture.state_dict()))
    write("pytorch", "legacy", pickled(lecture.state_dict(), _use_new_zipfile_serialization=False))
    write("pytorch", "nanogpt", by(checkpoint, nano, "_orig_mod."))
    write("int8", "lecture", pickled(in_bytes(lecture)))
    write("safetensors", "nanogpt", save({k: v.clone() for k, v in nano.state_dict().items()}))
    write("safetensors", "half", save({k: v.clone().half() for k, v in nano.state_dict().items()}))
    write("meta", "chars", by(meta, list("\n abc")))
    gpt2 = t.GPT2Config(vocab_size=5, n_positions=4, n_layer=1, n_head=1, n_embd=4)
    model = stir(t.GPT2LMHeadModel(gpt2), 3)
    write("llm_c", "version-3", by(llm_c, model, 3, torch.float32))
    write("llm_c", "version-5", by(llm_c, model, 5, torch.bfloat16))
    sizes = dict(vocab_size=5, hidden_size=4, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=4)
    model = stir(t.LlamaForCausalLM(t.LlamaConfig(**sizes)), 4)
    write("llama2_c", "first", by(llama2_c, model, False, False))
    write("llama2_c", "version-1", by(llama2_c, model, False, True))
    model = stir(t.LlamaForCausalLM(t.LlamaConfig(**sizes)), 5)
    write("gguf", "llama", by(gguf_written.write, model, "llama", "f32", None))
    model = stir(t.GPT2LMHeadModel(t.GPT2Config(vocab_size=5, n_positions=4, n_layer=1, n_head=1, n_embd=32)), 6)
    write("gguf", "gpt2-q8_0", by(gguf_written.write, model, "gpt2", "q8_0", None))
    write("safetensors", "llama", save({k: v.contiguous() for k, v in stir(t.LlamaForCausalLM(t.LlamaConfig(**sizes)), 4).state_dict().items()}))
    configs = {"gpt2": gpt2, "llama": t.LlamaConfig(**sizes), "qwen3": t.Qwen3Config(**sizes), "stablelm": t.StableLmConfig(**sizes)}
    for name, config in configs.items():
        write("hugging_face", name, json.dumps(config.to_dict(), default=str).encode())
    write("peft", "lora", json.dumps({
        "peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "target_modules": ["q_proj", "v_proj"], "modules_to_save": None, "base_model_name_or_path": "base", "task_type": "CAUSAL_LM",
    }).encode())  # fmt: skip


if __name__ == "__main__":
    main()
