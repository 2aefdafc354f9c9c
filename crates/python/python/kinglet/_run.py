"""A run: what was trained, how that went, and the model that came of it."""

from __future__ import annotations

import html
import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _kinglet
from ._columns import Columns, columns
from ._errors import KingletWarning
from ._plot import Plot
from ._settings import path as checked

if TYPE_CHECKING:
    from ._model import Model

#: The columns of estimates, and those that only some runs have.
METRICS = ("step", "train_loss", "val_loss", "bits_per_byte", "tokens", "train_s")
MAYBE = ("old_val_loss",)
#: The columns of updates.
STEPS = ("step", "loss", "lr", "grad_norm", "tokens_per_s")


class Run:
    """A run, by its folder or its name in `runs/`. What is asked of it is read from the folder, also while it is trained.

    Losses are means in nats per token. `pandas.DataFrame(run.metrics)` makes a table of the estimates.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        found = checked("run", run)
        assert found is not None
        #: The folder.
        self.path: Path = _kinglet.run_folder(found)
        self._read: tuple[object, list[dict[str, Any]]] | None = None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, complete: all keys with their values."""
        config, damaged = _kinglet.run_config(self.path)
        for what in damaged:
            warnings.warn(what, KingletWarning, stacklevel=2)
        found: dict[str, Any] = json.loads(config)
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """Where it stands: `state` (done, training, stopped, ...), `step`, losses, `params`, `size_bytes`, `tags`, ..."""
        found: dict[str, Any] = json.loads(_kinglet.run_summary(self.path))
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events that were recorded, in order: `step`, `estimate`, `sample`, `done`, ..."""
        file = self.path / "metrics.jsonl"
        try:
            about = file.stat()
            now: object = (about.st_mtime_ns, about.st_size)
        except OSError:
            now = None
        if self._read is None or now is None or self._read[0] != now:
            self._read = (now, json.loads(_kinglet.run_events(self.path)))
        return [dict(event) for event in self._read[1]]

    def _records(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def metrics(self) -> Columns:
        """The estimates of the loss, as columns: `step`, `train_loss`, `val_loss`, `bits_per_byte`, `tokens` (trained on so far) and
        `train_s` (seconds of training so far), and of fine-tuned runs `old_val_loss`."""
        return columns(self._records("estimate"), METRICS, MAYBE)

    @property
    def steps(self) -> Columns:
        """The updates that were recorded (one of `log_interval`), as columns: `step`, `loss` (of the batch, before the update), `lr`,
        `grad_norm` (before clipping) and `tokens_per_s`."""
        return columns(self._records("step"), STEPS)

    @property
    def loss(self) -> float | None:
        """The loss on the validation part: exact, if the run is done, else the last estimate; `None` if there is none yet."""
        summary = self.summary
        exact = summary.get("val_loss_exact")
        return summary.get("val_loss") if exact is None else exact

    @property
    def sample(self) -> str | None:
        """What the model wrote at the end of the run, if it got there."""
        try:
            return (self.path / "sample.txt").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def plot(self) -> Plot:
        """The curves: losses, the learning rate and the gradient's norm by step."""
        return Plot(_kinglet.run_svg(self.path))

    def model(self, checkpoint: str | int = "best", *, threads: int = 0) -> Model:
        """The model: `checkpoint` is `"best"` (the lowest estimate of the validation loss), `"last"`, or a step."""
        from ._model import load

        return load(self, checkpoint=checkpoint, threads=threads)

    def __fspath__(self) -> str:
        return str(self.path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path.resolve() == other.path.resolve()

    def __hash__(self) -> int:
        return hash(self.path.resolve())

    def _line(self) -> str:
        summary = self.summary
        parts = [str(summary["state"]).replace("_", " ")]
        if summary.get("step") is not None:
            parts.append(f"step {summary['step']} of {summary['max_iters']}")
        exact, estimate = summary.get("val_loss_exact"), summary.get("val_loss")
        if exact is not None:
            parts.append(f"validation loss {exact:.4f}")
        elif estimate is not None:
            parts.append(f"validation loss about {estimate:.4f}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"<Run {os.fspath(self)!r}: {self._line()}>"

    def _repr_svg_(self) -> str:
        return self.plot().svg

    def _repr_html_(self) -> str:
        sample = self.sample
        shown = f"<pre>{html.escape(sample[:500])}</pre>" if sample else ""
        return f"<div><b>{html.escape(os.fspath(self))}</b>: {self._line()}</div>{self.plot().svg}{shown}"


def runs(folder: str | os.PathLike[str] = "runs") -> list[Run]:
    """The runs in a folder and in the folders in it, by path; none if it does not exist."""
    found = checked("folder", folder)
    assert found is not None
    return [Run(path) for path in _kinglet.runs(Path(found))] if os.path.isdir(found) else []
