"""Runs side by side."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from . import _kinglet
from ._columns import Columns, columns
from ._plot import Plot
from ._run import Run, runs as all_runs
from ._settings import number


class Drawing(NamedTuple):
    """How runs are drawn."""

    by: str
    log: bool
    train: bool
    ymin: float | None
    ymax: float | None


#: The columns of a comparison.
COLUMNS = (
    "params",
    "max_iters",
    "best_val_loss",
    "best_step",
    "val_loss_exact",
    "val_loss_stderr",
    "ms_per_step",
    "wall_s",
    "peak_memory_mib",
)


class Comparison:
    """Several runs side by side. Losses are in nats per token, or in bits per byte where the runs have different tokenizers."""

    def __init__(self, runs: list[Run], target: float | None) -> None:
        #: The runs.
        self.runs = runs
        #: All of it, as `kinglet compare --json` prints it.
        self.found: dict[str, Any] = json.loads(_kinglet.overlaid([run.path for run in runs], target))

    @property
    def unit(self) -> str:
        """The unit of losses: `nats_per_token` or `bits_per_byte`."""
        return str(self.found["unit"])

    @property
    def columns(self) -> dict[str, Any]:
        """A row for each run, the best first, as columns: `run`, `params`, `max_iters`, `best_val_loss`, `best_step`,
        `val_loss_exact`, `val_loss_stderr`, `ms_per_step`, `wall_s` and `peak_memory_mib`, and the step and the seconds at which the
        target was reached: `target_step`, `target_s`."""
        traces = [self.found["runs"][i] for i in self.found["ranking"]]
        for trace in traces:
            at = trace.get("at_target") or {}
            trace["target_step"], trace["target_s"] = at.get("step"), at.get("train_s")
        names: dict[str, Any] = {"run": [trace["name"] for trace in traces]}
        return names | columns(traces, (*COLUMNS, "target_step", "target_s"))

    @property
    def differences(self) -> dict[str, list[Any]]:
        """The keys of the configuration in which the runs differ, with the value of each run, in the order of `runs`."""
        return dict(self.found["config"])

    @property
    def estimates(self) -> dict[str, Columns]:
        """The estimates of each run, as columns, by its name."""
        names = ("step", "tokens", "train_s", "train_loss", "val_loss")
        return {trace["name"]: columns(trace["estimates"], names) for trace in self.found["runs"]}

    def plot(
        self,
        by: str = "step",
        *,
        log: bool = False,
        train: bool = False,
        ymin: float | None = None,
        ymax: float | None = None,
    ) -> Plot:
        """The validation losses by `"step"`, `"tokens"` or `"seconds"`; with `log`, on a logarithmic axis, with `train`, the losses on
        the training part too. The vertical axis is from `ymin` to `ymax`."""
        limits = [None if end is None else number("ymin and ymax", end) for end in (ymin, ymax)]
        drawing = Drawing(by, bool(log), bool(train), limits[0], limits[1])
        return Plot(_kinglet.overlaid_svg([run.path for run in self.runs], drawing))

    def __repr__(self) -> str:
        table = self.columns
        losses = zip(table["run"], table["val_loss_exact"], table["best_val_loss"])
        rows = [f"  {name}: {best if exact != exact else exact:.4f}" for name, exact, best in losses]
        return "\n".join([f"<Comparison of {len(rows)} runs, losses in {self.unit.replace('_', ' ')}:", *rows]) + ">"

    def _repr_html_(self) -> str:
        table = self.columns
        head = "".join(f"<th>{html.escape(name)}</th>" for name in table)
        rows = zip(*table.values())
        body = "".join("<tr>" + "".join(f"<td>{html.escape(shown(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        return f"{self.plot().svg}<table><tr>{head}</tr>{body}</table>"


def shown(cell: Any) -> str:
    """A cell of a table."""
    if isinstance(cell, str):
        return cell
    if cell != cell:
        return ""
    return f"{int(cell)}" if cell == int(cell) else f"{cell:.4f}"


def compare(
    *runs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], target: float | None = None
) -> Comparison:
    """Compares runs, by their folders or names; without any, all in `runs/`.

    Args:
        target: A loss, to see when each run first reached it; by default the last loss of the first run.
    """
    given: list[Any] = []
    for each in runs:
        given.extend([each] if isinstance(each, (str, os.PathLike)) else each)
    found = [each if isinstance(each, Run) else Run(each) for each in given] if runs else all_runs()
    if not found:
        raise ValueError("there are no runs to compare")
    return Comparison(found, None if target is None else number("target", target))
