"""Training: new runs, runs that go on, and runs that go on from others."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from . import _data, _kinglet, _progress, _settings
from ._data import Data, Text
from ._errors import DataError, KingletWarning
from ._run import Run
from ._settings import Setting

#: An event, as `--json` prints it: `event` says which.
Event = dict[str, Any]
Path = str | os.PathLike[str]


def train(
    data: Data = None,
    *,
    text: Text = None,
    preset: str | None = None,
    config: Path | None = None,
    out: Path | None = None,
    name: str | None = None,
    threads: int = 0,
    on_event: Callable[[Event], object] | None = None,
    progress: bool | None = None,
    **settings: Setting,
) -> Run:
    """Trains a new run.

    What is trained on is `data` or `text`, or else a built-in text:

    - `data`: a name as on the command line (a file, a folder, a pattern, `"builtin"`, ...), or a list of them; a numpy array of whole
      numbers, which are token ids; or an iterable of documents: each a `str`, or a dict as on a line of a `.jsonl` file.
    - `text`: a `str`, which is one document, or an iterable of `str`, which are documents.

    Token ids stay numbers unless `tokenizer` says where they are from (`"byte"` or a `tokenizer.json`). Their vocabulary has
    `vocab_size` ids or, without that, as many as there are up to the largest one.

    Args:
        preset: What to start from; `kinglet.presets()` lists them. The default is `big-0.2m`, or `chat` for conversations.
        config: A configuration file to start from, instead.
        out: The folder of the run. The default is a descriptive name in `runs/`.
        name: The same as `out="runs/NAME"`; if that exists, `-2` or a higher number is appended.
        threads: Threads to compute with; 0 is one for each core. Results do not depend on it.
        on_event: Called with each event of the run, in order, in the thread that called. An exception in it stops the run with a
            checkpoint, and is raised.
        progress: Whether to show progress; by default in notebooks and terminals.
        settings: Keys of the configuration, such as `n_layer=4`; `kinglet.keys()` lists them.

    Returns:
        The run. The same data and settings give the same weights as the command `kinglet train`, bit for bit.

    Ctrl-C stops the run with a checkpoint and raises KeyboardInterrupt; `kinglet.resume` goes on from there. A second one does not
    wait for the checkpoint.
    """
    choice, place = _settings.choice(preset, config, settings), _settings.place(out, name)
    given = _data.given(data, text)
    return _attended(data, threads, on_event, progress, lambda how: _kinglet.train(given, choice, place, how))


def resume(
    run: Path,
    *,
    data: Data = None,
    text: Text = None,
    replay_data: Path | list[Path] | None = None,
    threads: int = 0,
    on_event: Callable[[Event], object] | None = None,
    progress: bool | None = None,
    **settings: Setting,
) -> Run:
    """Goes on with a run from its last checkpoint, to the same weights as without the interruption.

    Args:
        run: The run, by its folder or its name in `runs/`.
        data: Where the text of the run is now, if it has moved; or, for a run on data in memory, the same data again.
        text: For a run on a text in memory: the same text again.
        replay_data: For a fine-tuned run: where the text of the run it began with is now, if it has moved.
        settings: What to change, such as `max_iters`. What defines the model, the data or the random numbers cannot change.

    The other arguments are those of `train`.
    """
    found = _settings.path("run", run)
    assert found is not None
    replay, changes = _settings.paths("replay_data", replay_data), _settings.assignments(settings)
    given = _data.given(data, text)
    return _attended(
        data, threads, on_event, progress, lambda how: _kinglet.resume(found, given, replay, changes, how)
    )


class Base(NamedTuple):
    """What a fine-tuning begins with."""

    run: str
    checkpoint: str | None
    replay_data: list[str]
    set: list[str]


def base(
    run: Path, checkpoint: str | int | None, replay_data: Path | list[Path] | None, settings: dict[str, Setting]
) -> Base:
    """What a fine-tuning begins with, as the compiled part takes it."""
    found = _settings.path("run", run)
    assert found is not None
    if checkpoint is not None and not isinstance(checkpoint, str):
        checkpoint = str(_settings.whole("checkpoint", checkpoint))
    replay = _settings.paths("replay_data", replay_data)
    return Base(found, checkpoint, replay, _settings.assignments(settings))


def finetune(
    run: Path,
    data: Data = None,
    *,
    text: Text = None,
    checkpoint: str | int | None = None,
    replay_data: Path | list[Path] | None = None,
    out: Path | None = None,
    name: str | None = None,
    threads: int = 0,
    on_event: Callable[[Event], object] | None = None,
    progress: bool | None = None,
    **settings: Setting,
) -> Run:
    """Trains a run further on other data, as a new run.

    The configuration is that of the old run, except the schedule (1000 updates, over which the learning rate decays to zero) and the
    learning rates, which are a tenth of the old run's.

    Args:
        run: The run to begin with, by its folder or its name in `runs/`; `RUN@STEP` selects a checkpoint.
        data: What to train on, as in `train`. With `quantization="w8"` or `"w4"`, which rounds the weights while training, it can be
            left out: then it is the text of the old run.
        checkpoint: Which checkpoint to begin with: `"best"` (the default), `"last"`, or a step.
        replay_data: Where the text of the old run is now, if it has moved.
        settings: Keys of the configuration, such as `max_iters=200`, `lora_rank=8` (train adapters only) or `replay=0.2` (draw a part
            of the sequences from the old run's data, so that less is forgotten).

    The other arguments are those of `train`.
    """
    if data is None and text is None and "quantization" not in settings:
        raise TypeError("finetune needs something to train on: data=... or text=...")
    begins, place = base(run, checkpoint, replay_data, settings), _settings.place(out, name)
    given = _data.given(data, text)
    return _attended(data, threads, on_event, progress, lambda how: _kinglet.finetune(begins, given, place, how))


def _attended(
    data: Data,
    threads: int,
    on_event: Callable[[Event], object] | None,
    progress: bool | None,
    work: Callable[[How], tuple[os.PathLike[str], str]],
) -> Run:
    """Does some training, and shows how it goes."""
    watch = Watch(on_event, progress)
    return Run(attended(watch, threads, data, work, resume="kinglet.resume({!r})")[0])


class How(NamedTuple):
    """How to do it, and whom to tell."""

    threads: int
    sink: Callable[[list[str]], None]
    every: bool
    shown: bool


def attended(
    watch: Watcher,
    threads: int,
    data: Data,
    work: Callable[[How], tuple[os.PathLike[str], str]],
    resume: str,
) -> tuple[os.PathLike[str], Event]:
    """Does some work that takes long; the folder it is in, and the last event. `resume` is what goes on with it if it is stopped,
    with `{}` for the folder."""
    how = How(_settings.threads(threads), watch.hear, watch.on_event is not None, watch.progress.shown)
    try:
        out, last = work(how)
    except DataError as error:
        watch.progress.end()
        advised = _data.advised(error, data)
        if advised is error:
            raise
        raise advised from None
    except BaseException as error:
        watch.progress.end()
        if watch.out is not None:
            advise(error, f"{resume.format(watch.out)} goes on from the last checkpoint", watch)
        raise
    return out, json.loads(last)


def advise(error: BaseException, advice: str, watch: Watcher) -> None:
    """Says what may be done, once: at once, where somebody looks on and has pressed Ctrl-C, or else in the traceback."""
    if watch.progress.shown and isinstance(error, KeyboardInterrupt):
        watch.progress.say(f"stopped; {advice}")
    elif hasattr(error, "add_note"):
        error.add_note(f"The work is saved: {advice}")


class Watcher:
    """Hears the events of some work: shows how it goes, warns, and passes them on."""

    def __init__(self, on_event: Callable[[Event], object] | None, progress: bool | None) -> None:
        if on_event is not None and not callable(on_event):
            raise TypeError(f"on_event must be callable, not {_settings.kind(on_event)}")
        self.on_event = on_event
        self.progress = _progress.of(progress)
        #: The folder, once it is known.
        self.out: str | None = None

    def hear(self, events: list[str]) -> None:
        """Hears events, as JSON."""
        for each in events:
            event: Event = json.loads(each)
            # Where it is goes to nobody else: the events are those of the command.
            if event["event"] == "place":
                self.out = event["out"]
                if event.get("note"):
                    self.progress.say(f"note: {event['note']}")
                continue
            self.show(event)
            if self.on_event is not None:
                self.on_event(event)

    def show(self, event: Event) -> None:
        """Shows an event."""
        match event["event"]:
            case "note":
                self.progress.say(f"note: {event['note']}")
            case "warning":
                self.warn(f"at step {event['step']}: {event['warning']}")

    def warn(self, text: str) -> None:
        """Warns the caller of the function of the module."""
        self.progress.end()
        depth = 2
        # Where the module was called from, however deep this is.
        while depth < 20 and sys._getframe(depth - 1).f_globals.get("__package__") == "kinglet":
            depth += 1
        warnings.warn(text, KingletWarning, stacklevel=depth)


class Watch(Watcher):
    """Hears the events of a run."""

    def __init__(self, on_event: Callable[[Event], object] | None, progress: bool | None) -> None:
        super().__init__(on_event, progress)
        self.of = 1
        self.val_loss = ""

    def show(self, event: Event) -> None:
        super().show(event)
        match event["event"]:
            case "start":
                self.of = max(1, event["max_iters"])
                if event["plan"].get("advice"):
                    self.warn(event["plan"]["advice"])
            case "step":
                self.at(event, f"loss {number(event['loss'])}")
            case "measuring":
                self.at(event, f"measuring the loss, {100 * event['done'] // max(1, event['of'])} %")
            case "estimate":
                self.val_loss = f", val loss {number(event['val_loss'])}"
            case "diverged" if event["action"] != "stop":
                self.warn(f"training diverged ({event['cause']}): {event['action']}; now at step {event['step']}")
            case "early_stop":
                self.progress.say(f"stopping early: the validation loss has not fallen since step {event['best_step']}")
            case "interrupted":
                self.progress.end()
            case "done":
                loss = number(event["val_loss_exact"])
                self.progress.end(f"done: step {event['step']}, validation loss {loss}, saved in {event['out']}")

    def at(self, event: Event, what: str) -> None:
        """Shows where the run is."""
        left = event.get("left_s")
        time = "" if left is None else f", {_progress.duration(left)} left"
        self.progress.at(event["step"] / self.of, f"step {event['step']}/{self.of}, {what}{self.val_loss}{time}")


def number(loss: float | None) -> str:
    """A loss; one that is no number has none in JSON."""
    return "nan" if loss is None else f"{loss:.4f}"
