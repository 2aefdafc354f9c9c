"""A process with PyTorch: loads what kinglet wrote for the lecture's and nanoGPT's own code, and adapters into PEFT.

    python -m scripts.doors.torch_side JOBS.json ANSWERS.json

Each job has a kind: `lecture` and `nanogpt` (`load_state_dict(strict=True)` of a file that `torch.load` reads with
`weights_only=True`, plain and by `mmap`), `peft` (an adapter on a folder of transformers), `adapters` (writes an adapter that
PEFT trained a step), `large` (writes models of 124M parameters).
"""

import pickle

import numpy as np
import torch

from .jobs import answer_all
from .torch_models import Lecture, NanoGpt, stir


@torch.no_grad()
def save(model, job):
    model.eval()
    logits = lambda ids: model(torch.tensor([ids]))  # noqa: E731
    rows = [getattr(out, "logits", out)[0].double().numpy() for out in map(logits, job["lists"])]
    np.savez(job["out"], *rows)


def load(path):
    state = torch.load(path, weights_only=True)
    torch.load(path, weights_only=True, mmap=True)
    return state


def lecture(job):
    model = Lecture(*job["sizes"], scale=job["scale"])
    model.load_state_dict(load(job["file"]), strict=True)
    save(model, job)
    return {}


def nanogpt(job):
    """As sample.py of nanoGPT does it."""
    checkpoint = load(job["file"])
    arguments = dict(checkpoint["model_args"])
    arguments.pop("dropout", None)
    names = dict(vocab_size="vocab", block_size="block", n_layer="layers", n_head="heads", n_embd="width")
    model = NanoGpt(**{names.get(key, key): value for key, value in arguments.items()})
    state = {key.removeprefix("_orig_mod."): value for key, value in checkpoint["model"].items()}
    model.load_state_dict(state, strict=True)
    save(model, job)
    with open(job["meta"], "rb") as file:
        meta = pickle.load(file)
    ids = [meta["stoi"][c] for c in job["prompt"]]
    with torch.no_grad():
        for _ in range(job["tokens"]):
            ids.append(int(model(torch.tensor([ids[-arguments["block_size"] :]]))[0, -1].argmax()))
    text = "".join(meta["itos"][i] for i in ids)
    return {"text": text, "iter_num": int(checkpoint["iter_num"]), "arguments": arguments}


def peft(job):
    import peft as p
    import transformers as t

    base = t.AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    model = p.PeftModel.from_pretrained(base, job["folder"])
    save(model, job)
    return {}


def adapters(job):
    """An adapter with numbers in both of its matrices, as PEFT saves it."""
    import peft as p
    import transformers as t

    base = t.AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    config = p.LoraConfig(r=4, lora_alpha=12, target_modules=job["targets"], task_type="CAUSAL_LM", fan_in_fan_out=job["conv1d"])
    model = p.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_" in name:
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    model.save_pretrained(job["folder"])
    save(model, job)
    return {}


def large(job):
    """GPT-2's size with random weights, as nanoGPT and as transformers save it."""
    import transformers as t

    model = NanoGpt(50304, 1024, 12, 12, 768, bias=True)
    torch.save({"model": model.state_dict(), "model_args": model.arguments, "iter_num": 1, "best_val_loss": 4.0, "config": {}}, job["file"])
    del model
    t.GPT2LMHeadModel(t.GPT2Config(vocab_size=50257)).save_pretrained(job["folder"])
    return {}


KINDS = {kind.__name__: kind for kind in (lecture, nanogpt, peft, adapters, large)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    answer_all(lambda job: KINDS[job["kind"]](job))
