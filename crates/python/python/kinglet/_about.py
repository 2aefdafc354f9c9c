"""What there is to train with, and what it would take."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

from . import _data, _kinglet, _settings
from ._data import Data, Text
from ._settings import Setting
from ._train import Event, How, Path, Watcher, attended, base


def presets() -> dict[str, dict[str, Any]]:
    """The presets, by name: `about`, `params`, `block_size`, `max_iters`, and `val_loss`, which is known of some."""
    return {preset["preset"]: preset for preset in json.loads(_kinglet.presets())}


def keys(*names: str) -> dict[str, dict[str, Any]]:
    """The keys of configurations, by name: `help`, `default`, `allowed`, `section`, and the `presets` that set it to something else.
    With `names`, those of these names, sections, or with this in their names."""
    for name in names:
        _settings.text("a name", name)
    return {key["key"]: key for key in json.loads(_kinglet.keys(list(names)))}


def plan(
    data: Data = None,
    *,
    text: Text = None,
    run: Path | None = None,
    checkpoint: str | int | None = None,
    seconds: float = 3.0,
    preset: str | None = None,
    config: Path | None = None,
    threads: int = 0,
    **settings: Setting,
) -> dict[str, Any]:
    """What a run would take, after some seconds of measuring: `wall_s`, `ms_per_step`, `memory_mib`, `disk_mib`, `params`, `tokens`,
    `epochs`, `notes` (what is to be known of the data and the settings), and `advice`, if there is some. Nothing is written.

    Args:
        run: Plans a fine-tuning of this run, instead of a new one.
        seconds: How long to measure.

    The other arguments are those of `train`.
    """
    if not 0 <= (measured := _settings.number("seconds", seconds)) <= 3600:
        raise ValueError(f"seconds = {seconds}: must be 0 to 3600")
    given, of = _data.given(data, text), _settings.threads(threads)
    if run is not None:
        planned = _kinglet.plan_finetuning(base(run, checkpoint, None, settings), given, measured, of)
    else:
        planned = _kinglet.plan(given, _settings.choice(preset, config, settings), measured, of)
    found: dict[str, Any] = json.loads(planned)
    return found


def prepare(
    data: Data = None,
    out: Path | None = None,
    *,
    text: Text = None,
    preset: str | None = None,
    config: Path | None = None,
    threads: int = 0,
    on_event: Callable[[Event], object] | None = None,
    progress: bool | None = None,
    **settings: Setting,
) -> dict[str, Any]:
    """Writes the token ids of a text to files in a new folder `out`, which can be trained on although it is larger than memory.

    Returns:
        What was written: `documents`, `vocab_size`, `train` and `val` (`tokens`, `bytes`, `chars`, `files`), `notes`, ...

    The other arguments are those of `train`.
    """
    folder = _settings.path("out", out)
    if folder is None:
        raise TypeError("prepare needs a folder to write to: out=...")
    choice, given = _settings.choice(preset, config, settings), _data.given(data, text)
    watch = Encoding(on_event, progress)

    def work(how: How) -> tuple[pathlib.Path, str]:
        return pathlib.Path(folder), _kinglet.prepare(given, choice, pathlib.Path(folder), how)

    report = attended(watch, threads, data, work, resume="")[1]
    for note in report["notes"]:
        watch.progress.say(f"note: {note}")
    watch.progress.end()
    return report


class Encoding(Watcher):
    """Hears how far it is."""

    def show(self, event: Event) -> None:
        match event["event"]:
            case "encoding":
                part = event["done"] / max(1, event["of"])
                self.progress.at(part, f"encoding: {event['done'] // 1_000_000} of {event['of'] // 1_000_000} MB")
            case _:
                super().show(event)
