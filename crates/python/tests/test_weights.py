"""A model's weights: without copies where they are f32, and the same in torch."""

import gc
import math

import numpy as np
import pytest
from trained import SONG, folder, here, kinglet as program, rss  # noqa: F401

import kinglet

pytestmark = pytest.mark.usefixtures("here")


def names_of(model):
    config = model.config
    names = ["transformer.wte.weight", "transformer.wpe.weight", "transformer.ln_f.weight", "lm_head.weight"]
    for layer in range(config["n_layer"]):
        names += [
            f"transformer.h.{layer}.{part}.weight"
            for part in ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
        ]
    return names


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_weights_are_the_models_memory(folder, name):
    model = kinglet.load(name)
    state, again = model.state_dict(), model.state_dict()
    assert set(names_of(model)) <= set(state)
    c, v = model.config["n_embd"], model.vocab_size
    assert state["transformer.wte.weight"].shape == (v, c)
    assert state["transformer.h.1.attn.c_attn.weight"].shape == (3 * c, c)
    for key, weight in state.items():
        assert weight.dtype == np.float32 and not weight.flags.writeable and not weight.flags.owndata
        assert np.shares_memory(weight, again[key])
        with pytest.raises(ValueError):
            weight[0] = 1
    tied = model.config["tie_weights"]
    assert np.shares_memory(state["transformer.wte.weight"], state["lm_head.weight"]) == tied == (name == "tied")
    unique = {key: weight for key, weight in state.items() if not (tied and key == "lm_head.weight")}
    assert sum(weight.size for weight in unique.values()) == model.params
    # They outlive the model.
    sums = {key: weight.sum() for key, weight in state.items()}
    del model, again, unique
    gc.collect()
    np.ones(10_000_000)
    assert {key: weight.sum() for key, weight in state.items()} == sums


def test_weights_take_no_memory(folder):
    sets = ["n_layer=3", "n_head=4", "n_embd=512", "block_size=8", "max_iters=1", "eval_iters=1", "batch_size=1", "sample_tokens=0"]
    words = [word for setting in sets for word in ("--set", setting)]
    program("train", "song.txt", "--quiet", "--preset", "shakespeare-char", "--out", "large", *words, cwd=folder)
    model = kinglet.load("large")
    before = rss()
    states = [model.state_dict() for _ in range(10)]
    total = sum(float(weight[0].sum()) for state in states for weight in state.values())
    assert math.isfinite(total) and rss() - before < 8, "MiB; a copy has 36"


def test_weights_in_few_bits_and_adapters_are_copies(folder):
    few, tied, lora = (kinglet.load(name) for name in ["few", "tied", "lora"])
    a, b = few.state_dict(), tied.state_dict()
    assert a.keys() == b.keys()
    key = "transformer.h.0.mlp.c_fc.weight"
    assert not np.shares_memory(a[key], few.state_dict()[key])
    largest = np.abs(b[key]).max(axis=1, keepdims=True)
    assert 0 < np.abs(a[key] - b[key]).max() and (np.abs(a[key] - b[key]) <= largest / 127).all()
    program("merge", "lora", "--out", "runs/merged by command", cwd=folder)
    merged = kinglet.load("merged by command").state_dict()
    state = lora.state_dict()
    assert state.keys() == merged.keys() and not any("lora" in key for key in state)
    assert all(np.array_equal(state[key], merged[key]) for key in state)
    assert any(not np.array_equal(state[key], b[key]) for key in b)


def test_torch_computes_the_same(folder):
    torch = pytest.importorskip("torch")
    from nano import Nano

    for name in ["tied", "lora"]:
        model = kinglet.load(name)
        nano = Nano(**{key: model.config[key] for key in ["n_layer", "n_head", "n_embd", "block_size"]}, vocab_size=model.vocab_size)
        state = {key: torch.tensor(weight) for key, weight in model.state_dict().items()}
        nano.load_state_dict(state, strict=True)
        ids = model.tokenizer.encode(SONG[:32])
        with torch.no_grad():
            theirs = nano(torch.from_numpy(ids.astype(np.int64))[None])[0].numpy()
        assert np.abs(theirs - model.logits(ids)).max() < 1e-5
