"""Runs with weights in few bits: on the other side there are the same integers, and what is computed from them is what kinglet
computes from the same weights multiplied out."""

import shutil
import subprocess

import numpy as np

from .exports import BOUND, Failed, job
from .gguf_files import ask, exported
from .graphs_in_onnxruntime import Model, difference
from .program import divergence, largest_difference
from .shapes import SHAPES

PART = "quantized"
# Between the integers of a run and those of a GGUF nothing may differ. llama.cpp rounds what they are multiplied by to 8 bits
# for each 32 numbers, as onnxruntime does unless it is told otherwise.
KL = 1e-2
EXACT = {"session.qdq_matmulnbits_accuracy_level": "1"}
NAMES = ("published", "kinglet", "llama")
# There, llama.cpp has no place for biases of the MLP: they go into its weights, which are other numbers then.
CHANGED = ("kinglet",)


def check(exports, environments, names):
    for name in (name for name in names if name in NAMES):
        trained = exports.train(name, SHAPES[name])
        for scheme in ("w8", "w4"):
            try:
                of_run(exports, environments, *quantized(exports, trained, scheme))
            except Failed as error:
                exports.report.failed(PART, f"{name} {scheme}", str(error)[:600])


def quantized(exports, trained, scheme):
    """The smaller run, and a run of its weights multiplied out."""
    work, kinglet = exports.work / "quantized", exports.kinglet
    work.mkdir(exist_ok=True)
    name = f"{trained.name}-{scheme}"
    small, tensors, plain = work / name, work / f"{name}-tensors", work / f"{name}-plain"
    kinglet("quantize", trained.run, "--scheme", scheme, "--out", small)
    kinglet("export", small, "--format", "safetensors", "--out", tensors)
    kinglet("import", tensors, "--out", plain)
    return exports.known(name, small, trained.shape), exports.known(f"{name}-plain", plain, trained.shape)


def of_run(exports, environments, small, plain):
    report, name = exports.report, small.name
    report.most(PART, f"{name}: kinglet beside its weights multiplied out: KL divergence", divergence(plain.logits, small.logits), 1e-4)
    in_onnxruntime(exports, small, plain)
    in_llama_cpp(exports, environments, small, plain)
    in_c(exports, small, plain)


def in_onnxruntime(exports, small, plain):
    folder = exports.export(small, "onnx", "any")
    if folder is None:
        return
    file = next(iter(sorted(folder.rglob("*.onnx"))))
    exact, fast = Model(file, EXACT), Model(file)
    exports.report.most(PART, f"{small.name} in onnxruntime: log-probabilities", difference(plain, exact.at_once), BOUND)
    exports.report.most(PART, f"{small.name} in onnxruntime, in pieces: log-probabilities", difference(plain, exact.in_pieces), BOUND)
    theirs = [fast.at_once(ids) for ids in plain.lists]
    exports.report.most(PART, f"{small.name} in onnxruntime, as it is set: KL divergence", divergence(plain.logits, theirs), KL)


def in_llama_cpp(exports, environments, small, plain):
    # ReLU by GELU's function leaves a trace where numbers are small, which the export asks about.
    file = exported(exports, small, "any", "--max-difference", "1e-2")
    if file is None:
        return
    if not small.name.startswith(CHANGED):
        own_integers(exports, small, file)
    asked = job(exports, plain, file.parent, f"llama-{small.name}", file=str(file))
    answer = ask(exports, environments, asked)
    if "failed" in answer:
        exports.report.failed(PART, f"{small.name} in llama.cpp", answer["failed"][:600])
        return
    with np.load(asked["out"]) as saved:
        theirs = [saved[key] for key in saved]
    exports.report.most(PART, f"{small.name} in llama.cpp: KL divergence", divergence(plain.logits, theirs), KL)


def own_integers(exports, small, file):
    """Every integer of the blocks' linear layers in the file is one of the run's, as often as there."""
    try:
        import gguf
    except ImportError:
        exports.report.skip(PART, f"{small.name}: integers in the GGUF", "PyPI's gguf is not here")
        return
    tensors = [t for t in gguf.GGUFReader(file).tensors if t.name.startswith("blk.") and t.tensor_type.name in ("Q8_0", "Q4_0")]
    theirs = np.concatenate([codes_of(t) for t in tensors])
    ours = []
    for name, stored in exports.kinglet.weights(small.run).items():
        if name.endswith(".q"):
            halves = np.stack([stored & 15, stored >> 4], -1).astype(np.int8) - 8 if stored.dtype == np.uint8 else stored
            ours.append(halves.flatten())
    # Rows are in another order there, or there are more of them, all of zeros.
    ours = np.concatenate(ours)
    count = lambda codes: {int(c): int(n) for c, n in zip(*np.unique(codes, return_counts=True), strict=True) if c}  # noqa: E731
    exports.report.equal(PART, f"{small.name}: integers in the GGUF, of {len(theirs)}", count(theirs), count(ours))


def codes_of(tensor):
    four = tensor.tensor_type.name == "Q4_0"
    blocks = np.array(tensor.data).reshape(-1, 18 if four else 34)[:, 2:]
    if four:
        return (np.concatenate([blocks & 15, blocks >> 4], 1).astype(np.int8) - 8).flatten()
    return blocks.view(np.int8).flatten()


def in_c(exports, small, plain):
    """The text of the C program is the one that kinglet writes with the weights multiplied out."""
    compiler = next((name for name in ("gcc", "clang") if shutil.which(name)), None)
    if compiler is None:
        exports.report.skip(PART, f"{small.name} in C", "neither gcc nor clang is installed")
        return
    folder = exports.export(small, "c", "any")
    if folder is None:
        return
    program, words = folder / "program", ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2", "-DKINGLET_MAIN"]
    done = subprocess.run([compiler, *words, folder / "model.c", "-o", program, "-lm"], capture_output=True, text=True)
    if done.returncode:
        exports.report.failed(PART, f"{small.name} in C: compiles", done.stderr[:600])
        return
    words = [program, "--prompt", plain.prompt, "--tokens", str(len(plain.ids)), "--temperature", "0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    exports.report.equal(PART, f"{small.name} in C: text of {len(plain.ids)} tokens", done.stdout, plain.text + "\n")
