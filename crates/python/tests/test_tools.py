"""Runs made of runs, and models of and for other programs: what the command makes."""

import hashlib
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from trained import SONG, folder, here, interrupted, kinglet as program, printed  # noqa: F401

import kinglet

pytestmark = pytest.mark.usefixtures("here")


def files(folder, *, without=()):
    """The files of a folder and what is in them."""
    paths = [path for path in pathlib.Path(folder).rglob("*") if path.is_file() and path.name not in ("lock", *without)]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("scheme", ["w8", "w4"])
def test_a_quantized_run_is_that_of_the_command(folder, scheme):
    seen = []
    made = kinglet.quantize("tied", scheme=scheme, out=f"small {scheme}", progress=lambda *at: seen.append(at[0]))
    [line] = printed("quantize", "tied", "--scheme", scheme, "--out", f"by command {scheme}", cwd=folder)
    card = ("quantization.md", "quantization.svg", "metrics.jsonl")
    assert files(f"small {scheme}", without=card) == files(f"by command {scheme}", without=card)
    about = made.about
    assert about.keys() == line.keys() and about["report"].keys() == line["report"].keys() and about["scheme"] == scheme
    assert about["report"]["text"] == line["report"]["text"] and about["report"]["layers"] == line["report"]["layers"]
    assert {"rounding", "measuring both losses", "measuring each layer", "measuring the speed"} >= set(seen) and seen
    assert kinglet.load(made).sample(max_tokens=9) == kinglet.load(f"by command {scheme}").sample(max_tokens=9)
    assert (made.path / "quantization.md").exists()
    assert isinstance(made, kinglet.Run) and made.config["quantization"] == scheme and made._repr_html_()


def test_new_folders_are_beside_the_run(folder):
    first = kinglet.quantize("tied", report=False)
    second = kinglet.quantize("runs/tied", report=False)
    assert [first.path, second.path] == [pathlib.Path("runs", name) for name in ["tied-w8", "tied-w8-2"]]
    merged = kinglet.merge("lora")
    assert merged.path == pathlib.Path("runs", "lora-merged") and merged.about["had_adapters"]
    [line] = printed("merge", "lora", "--out", "merged", cwd=folder)
    assert files("merged") == files(merged)
    assert kinglet.compare_bits("merged", merged)["same"]
    assert kinglet.load(merged).loss(SONG) == pytest.approx(kinglet.load("lora").loss(SONG), abs=1e-4)


@pytest.mark.parametrize("to", ["hf", "gguf", "onnx", "pth", "nanogpt", "safetensors", "c"])
def test_an_export_is_that_of_the_command(folder, to):
    run = "untied" if to == "pth" else "tied"
    exported = kinglet.export(run, to, out=f"exported/{to}")
    want = files(f"exported/{to}")
    # Some of them have the name of their folder in them.
    os.rename("exported", "exported before")
    [line] = printed("export", run, "--format", to, "--out", f"exported/{to}", cwd=folder)
    assert exported.keys() == line.keys() and exported["rewrites"] == line["rewrites"]
    assert files(f"exported/{to}") == want
    assert all(file.is_file() for file in exported.files)
    shutil.rmtree("exported before")
    shutil.rmtree("exported")
    if to == "gguf":
        small = kinglet.export("tied", to, dtype="q8_0")
        assert small.path == pathlib.Path("exports", "tied-gguf") and small["files"][0]["bytes"] < exported["files"][0]["bytes"]


def test_adapters_are_exported_and_imported(folder):
    exported = kinglet.export("lora", "peft", out="peft")
    adapter = next(path for path in pathlib.Path(exported).rglob("adapter_config.json")).parent
    made = kinglet.import_(adapter, base="tied", name="adapter")
    assert made.path == pathlib.Path("runs", "adapter") and made.about["format"] == "peft"
    assert kinglet.load(made).loss(SONG) == pytest.approx(kinglet.load("lora").loss(SONG), abs=1e-3)


def test_an_import_is_that_of_the_command(folder):
    kinglet.export("tied", "nanogpt", out="nanogpt")
    made = kinglet.import_("nanogpt/ckpt.pt", tokenizer="nanogpt/meta.pkl", activation="gelu", name="imported")
    [line] = printed(
        "import", "nanogpt/ckpt.pt", "--tokenizer", "nanogpt/meta.pkl", "--set", "activation=gelu", "--name", "imported", cwd=folder
    )
    assert line["out"] == f"{made.path}-2"
    assert {**line, "out": ""} == {**made.about, "out": ""}
    assert kinglet.compare_bits(made, line["out"])["same"]
    assert kinglet.load(made).sample(max_tokens=30) == kinglet.load("tied").sample(max_tokens=30)
    state, want = kinglet.load(made).state_dict(), kinglet.load("tied").state_dict()
    assert all(np.array_equal(state[key], want[key]) for key in want)
    again = kinglet.import_("nanogpt/ckpt.pt", tokenizer="nanogpt/meta.pkl", out="dropped", dropout=0.25)
    assert kinglet.load(again).config["dropout"] == 0.25


def test_torch_loads_what_is_exported(folder):
    torch = pytest.importorskip("torch")
    kinglet.export("tied", "nanogpt", out="for torch")
    state = torch.load("for torch/ckpt.pt", weights_only=True)["model"]
    ours = kinglet.load("tied").state_dict()
    assert {key: weight.numpy().shape for key, weight in state.items()} == {key: weight.shape for key, weight in ours.items()}
    assert all(np.array_equal(state[key].numpy(), ours[key]) for key in ours)


def test_bits_are_compared(folder):
    assert kinglet.compare_bits("tied", "tied")["same"]
    found = kinglet.compare_bits("tied", "untied")
    assert not found["same"] and found["config"]


def test_what_cannot_be_is_said(folder):
    for error, match, bad in [
        (kinglet.ConfigError, "scheme = w2: must be w8, w4", lambda: kinglet.quantize("tied", scheme="w2")),
        (kinglet.RunError, "few bits already", lambda: kinglet.quantize("few")),
        (kinglet.NotFoundError, "no such run", lambda: kinglet.quantize("nothing")),
        (kinglet.Error, None, lambda: kinglet.quantize("tied", out="runs/tied")),
        (kinglet.ConfigError, "must be hf, gguf", lambda: kinglet.export("tied", "h5")),
        (kinglet.ConfigError, "dtype", lambda: kinglet.export("tied", "gguf", dtype="f8")),
        (kinglet.ConfigError, "max_difference", lambda: kinglet.export("tied", max_difference=-1)),
        (kinglet.ConfigError, "says itself", lambda: kinglet.export("tied", n_head=2, out="x")),
        (kinglet.RunError, "takes a run with adapters", lambda: kinglet.export("song.txt", "peft", out="x")),
        (kinglet.Error, None, lambda: kinglet.import_("song.txt")),
        (kinglet.Error, None, lambda: kinglet.import_("nothing.pt")),
        (kinglet.ConfigError, "a name cannot contain", lambda: kinglet.import_("nanogpt/ckpt.pt", name="a/b")),
        (TypeError, "use only one", lambda: kinglet.import_("x", out="a", name="b")),
        (TypeError, None, lambda: kinglet.import_(7)),
        (TypeError, None, lambda: kinglet.merge(None)),
        (TypeError, None, lambda: kinglet.quantize("tied", out=7)),
        (TypeError, None, lambda: kinglet.quantize("tied", progress=7)),
    ]:
        with pytest.raises(error, match=match):
            bad()
    assert not os.path.exists("x")


def test_ctrl_c_leaves_nothing_behind(folder):
    script = """
import kinglet, os, shutil
print("ready")
for _ in range(999):
    made = kinglet.quantize("tied", scheme="w4", out="broken off", full=True)
    # The interrupt may come while the run is removed, so it has another name by then.
    os.rename(made.path, "done")
    shutil.rmtree("done")
"""
    status, _, err, seconds = interrupted(script, folder)
    assert status != 0 and "KeyboardInterrupt" in err and seconds < 5, err
    assert not os.path.exists("broken off") or kinglet.load("broken off")


def test_an_exception_in_progress_leaves_nothing_behind(folder):
    def stop(what, done, of):
        raise RuntimeError(what)

    with pytest.raises(RuntimeError, match="rounding|measuring"):
        kinglet.quantize("tied", scheme="w4", out="broken", progress=stop)
    # It may have been done before it was heard.
    assert not os.path.exists("broken") or kinglet.load("broken").sample(max_tokens=3)
