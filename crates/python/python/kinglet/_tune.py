"""Search for settings."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from . import _data, _kinglet, _progress, _settings
from ._data import Data, Text
from ._plot import Plot
from ._run import Run
from ._settings import Setting
from ._train import Event, Path, Watcher, attended, number


class Tuning:
    """The result of a search for settings."""

    def __init__(self, path: os.PathLike[str], found: Event) -> None:
        #: The folder: `best.toml`, `trials.md`, `tune.svg`, and the runs of all trials in `trials/`.
        self.path = pathlib.Path(path)
        #: What was found, as `kinglet tune --json` prints it: `best`, `base`, `ranked`, `checks`, `complete`, `spent_s`, ...
        self.found = found

    @property
    def config(self) -> pathlib.Path:
        """The file with the best configuration: `kinglet.train(data, config=tuning.config)` trains with it."""
        return self.path / "best.toml"

    @property
    def settings(self) -> dict[str, Any]:
        """The best values of the keys that were varied."""
        return dict(self.found["best"]["settings"])

    @property
    def loss(self) -> float:
        """The loss of the best trial on the validation part."""
        return float(self.found["best"]["loss"])

    @property
    def run(self) -> Run:
        """The run of the best trial."""
        return Run(self.found["best"]["run"])

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The last trial of each of the settings, best first: `settings`, `steps`, `loss`, `loss_stderr`, `wall_s`, `run`, ..."""
        return [dict(outcome) for outcome in self.found["ranked"]]

    def plot(self) -> Plot:
        """The range test, and the loss against each key that was varied."""
        return Plot((self.path / "tune.svg").read_text(encoding="utf-8"))

    def __repr__(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"<Tuning {os.fspath(self.path)!r}: {settings}, validation loss {number(self.found['best']['loss'])}>"

    def _repr_svg_(self) -> str:
        return self.plot().svg


class Search(NamedTuple):
    """What to vary, and for how long."""

    sweeps: list[str]
    trials: int | None
    budget_s: float | None


def tune(
    data: Data = None,
    *,
    text: Text = None,
    minutes: float | None = None,
    sweep: Mapping[str, object] | Iterable[str] | str | None = None,
    trials: int | None = None,
    resume: Path | None = None,
    preset: str | None = None,
    config: Path | None = None,
    out: Path | None = None,
    name: str | None = None,
    threads: int = 0,
    on_event: Callable[[Event], object] | None = None,
    progress: bool | None = None,
    **settings: Setting,
) -> Tuning:
    """Finds a good learning rate and other settings, within a budget of time.

    Args:
        minutes: The budget, earlier sessions included; by default 10.
        sweep: Keys to vary: `{"learning_rate": None, "dropout": (0, 0.3), "n_layer": [2, 4, 6]}`. A pair is a range, a list has all
            values, `None` is the range that a test finds (of the learning rate only). Or as on the command line: `"dropout=0..0.3"`.
            By default the learning rate is varied.
        trials: How many settings to try; by default as many as the budget allows.
        resume: The folder of a search to go on with, instead of a new one.

    The other arguments are those of `train`. Ctrl-C stops the search; `kinglet.tune(resume=...)` goes on with it.
    """
    seconds = None if minutes is None else 60 * _settings.number("minutes", minutes)
    if seconds is not None and not 0 < seconds <= 1e7:
        raise ValueError(f"minutes = {minutes}: must be more than 0 and at most 10000000 seconds")
    if trials is not None and not 2 <= _settings.whole("trials", trials) <= 1000:
        raise ValueError(f"trials = {trials}: must be 2 to 1000")
    search = Search(sweeps(sweep), trials, seconds)
    choice, place, found = _settings.choice(preset, config, settings), _settings.place(out, name), _settings.path("resume", resume)
    if found is not None and (settings or preset or config or out or name):
        raise TypeError("a search that goes on keeps its settings and its folder: leave them out")
    given = _data.given(data, text)
    watch = Watch(on_event, progress)

    def work(how: Any) -> tuple[os.PathLike[str], str]:
        if found is not None:
            return _kinglet.resume_tuning(pathlib.Path(found), given, search, how)
        return _kinglet.tune(given, choice, place, search, how)

    return Tuning(*attended(watch, threads, data, work, resume="kinglet.tune(resume={!r})"))


def sweeps(sweep: Mapping[str, object] | Iterable[str] | str | None) -> list[str]:
    """What to vary, as on the command line."""
    if sweep is None:
        return []
    if isinstance(sweep, str):
        return [sweep]
    if isinstance(sweep, Mapping):
        return [varied(key, values) for key, values in sweep.items()]
    found = list(sweep)
    for each in found:
        _settings.text("sweep", each)
    return found


def varied(key: str, values: object) -> str:
    """A key and what it is varied over."""
    if values is None:
        return key
    if isinstance(values, tuple):
        if len(values) not in (2, 3):
            raise TypeError(f"sweep: {key} = {values!r}: a range is (low, high) or (low, high, 'log')")
        low, high = (_settings.written(key, end) for end in values[:2])
        return f"{key}={low}..{high}" + (f":{values[2]}" if len(values) == 3 else "")
    if isinstance(values, list):
        return f"{key}={_settings.written(key, values)}"
    raise TypeError(f"sweep: {key} must be a tuple (a range), a list (all values) or None, not {_settings.kind(values)}")


class Watch(Watcher):
    """Hears the events of a search."""

    def __init__(self, on_event: Callable[[Event], object] | None, progress: bool | None) -> None:
        super().__init__(on_event, progress)
        self.trial, self.steps = "", 1
        self.told: set[str] = set()

    def show(self, event: Event) -> None:
        match event["event"]:
            case "range_step":
                what = f"range test, step {event['step']}/{event['of']}, learning rate {event['learning_rate']:.1e}"
                self.progress.at(event["step"] / event["of"], what)
            case "trial":
                which = f"seed {event['seed']}" if event["check"] else f"rung {event['rung']}/{event['rungs']}"
                self.trial, self.steps = f"{which}, trial {event['number']}/{event['of']}", max(1, event["steps"])
            case "training":
                self.training(event["training"], event["left_s"])
            case "outcome":
                settings = ", ".join(f"{key}={value}" for key, value in event["settings"].items())
                self.progress.say(f"rung {event['rung']}, {event['steps']} steps, {settings}: {number(event['loss'])}")
            case "interrupted" | "done":
                self.progress.end()
            case _:
                super().show(event)

    def training(self, event: Event, left_s: float) -> None:
        """Shows what a trial does. What concerns the text is the same in each of them."""
        match event["event"]:
            case "note" | "warning":
                what = event.get("note") or event["warning"]
                if what not in self.told:
                    self.told.add(what)
                    super().show(event)
            case "step":
                left = _progress.duration(left_s)
                what = f"{self.trial}, step {event['step']}/{self.steps}, loss {number(event['loss'])}, {left} left of the budget"
                self.progress.at(event["step"] / self.steps, what)
