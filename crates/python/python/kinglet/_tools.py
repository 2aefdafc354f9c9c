"""What makes runs of runs, and files of models."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _kinglet
from ._data import Data, Text
from ._ids import as_checkpoint, as_run
from ._model import Progress, _Sink, load
from ._run import Run
from ._settings import assignments, path, paths, threads as as_threads

if TYPE_CHECKING:
    from ._ids import RunLike

    PathLike = str | os.PathLike[str]


def evaluate(
    run: RunLike,
    data: Data = None,
    *,
    text: Text = None,
    part: Literal["train", "val", "all"] | None = None,
    checkpoint: str | int | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures the exact loss of a run on a text; the result is what `kinglet eval --json` prints.

    The arguments are those of `load` and `Model.eval`.
    """
    return load(run, checkpoint=checkpoint, threads=threads).eval(data, text=text, part=part, progress=progress)


def quantize(
    run: RunLike,
    data: Any = None,
    *,
    scheme: Literal["w8", "w4"] = "w8",
    out: PathLike | None = None,
    head: bool = False,
    embeddings: bool = False,
    calibrate: bool = False,
    report: bool = True,
    full: bool = False,
    checkpoint: str | int | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> Made:
    """Makes a run's weights up to four times smaller (w8) or seven times (w4), in a new folder, and says what that costs.

    Args:
        run: A run, as `load` takes it.
        data: Names of the text to calibrate and measure on, if not the run's own.
        scheme: What weights are rounded to: `"w8"`, eight bits and a scale for each row; `"w4"`, four bits and a scale for each 32
            weights of a row.
        out: The new folder; without it, the run's with the scheme behind its name, or the first that is free.
        head: Whether the weights of the head are rounded too.
        embeddings: Whether the embeddings are rounded too; where they share their weights with the head, both are.
        calibrate: Whether the error of each column is made up for in those after it (GPTQ); this needs text.
        report: Whether it is measured what this costs.
        full: Whether all of the text is measured, however large the model is.
        checkpoint: As for `load`.
        threads: How many threads compute; 0 is one for each core.
        progress: Called with what is being done, and how much of how much is.

    Returns:
        The new run. In its `about`, `verdict` is a sentence of what it costs, `report` the figures.
    """
    rounding = {
        "scheme": scheme, "head": head, "embeddings": embeddings, "calibrate": calibrate, "report": report, "full": full,
    }
    hear = _Sink(progress), progress is not None
    place = path("out", out), paths("data", data)
    made = _kinglet.quantize_run((as_run(run), as_checkpoint(checkpoint)), place, rounding, as_threads(threads), hear)
    return Made(made)


def merge(
    run: RunLike,
    *,
    out: PathLike | None = None,
    checkpoint: str | int | None = None,
    threads: int = 0,
) -> Made:
    """Merges the adapters of a run into its weights, in a new run.

    Args:
        run: A run, as `load` takes it.
        out: The new folder; without it, the run's with `-merged` behind its name, or the first that is free.
        checkpoint: As for `load`.
        threads: How many threads compute; 0 is one for each core.

    Returns:
        The new run.
    """
    place = path("out", out)
    return Made(_kinglet.merge_run((as_run(run), as_checkpoint(checkpoint)), place, as_threads(threads), _Sink(None)))


def import_(
    model: PathLike,
    *,
    out: PathLike | None = None,
    name: str | None = None,
    format: str | None = None,
    base: RunLike | None = None,
    tokenizer: PathLike | None = None,
    data: Any = None,
    n_head: int | None = None,
    attention_scale: Literal["head_size", "n_embd"] | None = None,
    threads: int = 0,
    **settings: Any,
) -> Made:
    """Makes a run of a model of another program.

    Args:
        model: A folder of Hugging Face's transformers, or a file of PyTorch (.pt, .pth, .bin), safetensors, GGUF, llm.c or llama2.c; or
            a folder with an adapter of PEFT.
        out: The folder of the new run; without it, `runs/` and `name`, or the name of the file.
        name: Its name in `runs/`; if there is one, `-2` or a higher number is appended.
        format: The format, if the one that is found by the content is wrong.
        base: An adapter's base: a run, or a file or folder.
        tokenizer: Its tokenizer: a `tokenizer.json`, or nanoGPT's `meta.pkl`; without it, the one beside the model.
        data: Names of text that it was trained on: its characters are the vocabulary if there is no tokenizer, and its loss decides what
            is guessed.
        n_head: Attention heads in each block, if the file does not say it.
        attention_scale: What attention scores are divided by the square root of, if the file does not say it.
        threads: How many threads compute; 0 is one for each core.
        **settings: Keys of the configuration.

    Returns:
        The new run. In its `about`, `guesses` is what was guessed, `config` what the model is.
    """
    if out is not None and name is not None:
        raise TypeError("out and name both say where the run goes: use only one of them")
    said = _said(format, tokenizer, data, n_head, attention_scale, settings)
    place = path("out", out), path("base", base)
    return Made(_kinglet.import_model(as_run(model), place, said, name, as_threads(threads), _Sink(None)))


def export(
    run: RunLike,
    to: Literal["hf", "gguf", "onnx", "pth", "nanogpt", "safetensors", "c", "peft"] = "hf",
    *,
    out: PathLike | None = None,
    dtype: Literal["f32", "f16", "bf16", "q8_0", "q5_0", "q4_0", "int8"] | None = None,
    max_difference: float | None = None,
    ids: Literal["int64", "int32"] = "int64",
    static: bool = False,
    scheme: Literal["w8", "w4"] | None = None,
    checkpoint: str | int | None = None,
    format: str | None = None,
    tokenizer: PathLike | None = None,
    data: Any = None,
    n_head: int | None = None,
    attention_scale: Literal["head_size", "n_embd"] | None = None,
    threads: int = 0,
    **settings: Any,
) -> Exported:
    """Writes a model for another program.

    Args:
        run: A run, as `load` takes it; or a file or folder, as `import_` takes it.
        to: `"hf"` (a folder for transformers), `"gguf"` (llama.cpp, Ollama), `"onnx"`, `"pth"` (the state_dict of the lecture's
            code), `"nanogpt"` (its checkpoint), `"safetensors"` (the tensors alone), `"c"` (C source that needs no library) or
            `"peft"` (the adapters of a run, and the model they are on).
        out: The new folder; without it, `exports/RUN-FORMAT`.
        dtype: How weights are stored.
        max_difference: The largest difference of log-probabilities that rewriting may make.
        ids: Of ONNX, the type of token ids.
        static: Of ONNX, a graph of fixed sizes, without a cache.
        scheme: Rounds the matrices of the blocks on the way out.
        checkpoint: As for `load`.
        threads: How many threads compute; 0 is one for each core.

    The other arguments say of a model of another program what `import_` is told.
    """
    writing = {
        "to": to, "dtype": dtype, "max_difference": max_difference, "ids": ids, "fixed": static, "scheme": scheme,
    }
    said = _said(format, tokenizer, data, n_head, attention_scale, settings)
    of, place = (as_run(run), as_checkpoint(checkpoint)), path("out", out)
    made = _kinglet.export_model(of, place, writing, said, as_threads(threads), _Sink(None))
    return Exported(json.loads(made))


class Made(Run):
    """A run that was made of a model, not trained. `about` is what the command prints of it as JSON."""

    def __init__(self, about: str) -> None:
        self.about: dict[str, Any] = json.loads(about)
        super().__init__(self.about["out"])


class Exported(dict[str, Any]):
    """A model that was written for another program: what `kinglet export --json` prints. It can stand where its folder is asked for."""

    @property
    def path(self) -> Path:
        """The new folder."""
        return Path(self["out"])

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def files(self) -> list[Path]:
        """The files in it, with their paths."""
        return [self.path / file["name"] for file in self["files"]]


def compare_bits(a: RunLike, b: RunLike) -> dict[str, Any]:
    """Whether two runs are bit-identical (`same`), and where they first differ; what `kinglet compare --bits --json` prints."""
    found: dict[str, Any] = json.loads(_kinglet.compare_bits(as_run(a), as_run(b)))
    return found


def _said(
    format: str | None,
    tokenizer: PathLike | None,
    data: Any,
    n_head: int | None,
    attention_scale: str | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What a file does not say, as the library takes it."""
    return {
        "format": format,
        "tokenizer": path("tokenizer", tokenizer),
        "data": paths("data", data),
        "n_head": n_head,
        "attention_scale": attention_scale,
        "set": assignments(settings),
    }
