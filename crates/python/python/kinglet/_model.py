"""Trained models: generating text, measuring it, and their weights."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeVar

from . import _data, _kinglet
from ._data import Data, Text
from ._errors import DataError, KingletWarning
from ._ids import as_checkpoint, as_count, as_input, as_run
from ._settings import number, threads as as_threads
from ._tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ._ids import Ids, RunLike

Progress = Callable[[str, int, int], object]
"""Called with what is being done, and how much of how much is."""


def load(
    run: RunLike,
    *,
    checkpoint: str | int | None = None,
    adapter: RunLike | None = None,
    threads: int = 0,
) -> Model:
    """Loads a trained model.

    Args:
        run: The folder of a run, its name in `runs/`, either with `@best`, `@last` or `@STEP` behind it, the folder of a
            checkpoint, or a `Run`.
        checkpoint: `"best"`, `"last"` or a step; without it, the one that `run` names, or else the best.
        adapter: Another run with adapters, to use with this run's weights; `"none"` leaves out the run's own.
        threads: How many threads compute; 0 is one for each core. Results do not depend on it.

    Raises:
        NotFoundError: If there is no such run; the message says which may be meant.
        RunError: If it has no such checkpoint, or is damaged.
    """
    name = as_run(run)
    model = Model(_kinglet.Model.load(
        name, as_checkpoint(checkpoint), None if adapter is None else as_run(adapter), as_threads(threads)
    ))
    for warning in model._model.warnings:
        warnings.warn(warning, KingletWarning, stacklevel=2)
    return model


class Model:
    """A trained model, which `load` reads.

    Any number of threads may use it at once. It can be used in a process that was forked: threads are started there anew.
    """

    __slots__ = ("_model",)

    def __init__(self, model: _kinglet.Model) -> None:
        if not isinstance(model, _kinglet.Model):
            raise TypeError("kinglet.load(run) loads a model")
        self._model = model

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that it was trained with: all keys, as `kinglet keys` lists them."""
        config: dict[str, Any] = json.loads(self._model.config())
        return config

    @property
    def run(self) -> str:
        """The folder of its run."""
        return os.fspath(self._model.run)

    @property
    def step(self) -> int:
        """The step of its checkpoint."""
        return self._model.step

    @property
    def params(self) -> int:
        """How many parameters it has."""
        return self._model.params

    @property
    def block_size(self) -> int:
        """How many tokens it sees at once."""
        return self._model.block_size

    @property
    def vocab_size(self) -> int:
        """How many token ids it knows."""
        return self._model.vocab_size

    @property
    def notes(self) -> list[str]:
        """What was used instead of what was asked for, where nothing is damaged."""
        return self._model.notes

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return Tokenizer(self._model.tokenizer)

    @property
    def fingerprint(self) -> str:
        """A hash of all that its texts depend on: weights, configuration, tokenizer, precision and instruction set."""
        return self._model.fingerprint()

    def generate(
        self,
        prompt: str | Ids = "",
        *,
        max_tokens: int = 500,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 1337,
        index: int = 0,
        stop: str | Iterable[str] = (),
    ) -> Generation:
        """Continues a text, piece by piece: iterate over the result. The defaults, and each text, are those of `kinglet sample`.

        Args:
            prompt: A text, or token ids. Without one, the model starts from the begin-of-text token (or the end-of-text token, or
                token 0).
            max_tokens: The most tokens to generate.
            temperature: Logits are divided by it; text is more predictable below 1, more varied above 1. 0 always takes the most
                probable token.
            top_k: Then only the most probable tokens are kept, and ties with the last one; 0 keeps all.
            top_p: Then only the most probable tokens that together have this probability.
            min_p: Then only tokens with at least this fraction of the highest probability.
            repetition_penalty: Above 1, tokens that are already in the context become less probable.
            seed: The same seed generates the same text.
            index: Which of the texts with this seed; `kinglet sample --num N` prints those with 0 to N - 1.
            stop: A text, or several, before which generation ends.

        Raises:
            DataError: If the prompt cannot be encoded.
            ConfigError: If a value is not allowed.
        """
        manner = _manner(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, index, stop)
        return Generation(_kept(self._model.generate(as_input(prompt), manner)))

    def sample(self, prompt: str | Ids = "", **settings: Any) -> str:
        """The text that `generate` generates with these settings, all of it, without the prompt."""
        return self.generate(prompt, **settings).text()

    def answer(
        self,
        messages: str | Iterable[Mapping[str, str]],
        *,
        max_tokens: int = 500,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 1337,
        index: int = 0,
        stop: str | Iterable[str] = (),
    ) -> Generation:
        """The answer to a message, or in a conversation, as `kinglet chat` gives it.

        Args:
            messages: What the user says, or messages such as `{"role": "user", "content": "hello"}`.

        The other arguments are those of `generate`. The answer ends where the model ends it, or where the context is full.

        Raises:
            DataError: If the messages are too long, or cannot be encoded.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        pairs = [(message["role"], message["content"]) for message in messages]
        manner = _manner(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, index, stop)
        return Generation(self._model.answer(pairs, manner))

    def logits(self, text_or_ids: str | Ids) -> npt.NDArray[np.float32]:
        """The logits behind each token: float32 of shape (tokens, vocab_size).

        Row `i` has, for each id, the logarithm of how probable it is as token `i + 1`, up to a constant. The tokens of a text
        are those that are scored: with the begin-of-text token before them, if the model has one.

        Raises:
            DataError: If there is no token, there are more than `block_size`, or one that the model does not know.
        """
        return _kept(self._model.logits(as_input(text_or_ids)))

    def loss(self, text_or_ids: str | Ids, *, windows: Literal["half", "eval"] = "half") -> float:
        """The mean loss in nats per token that is predicted, as `kinglet score` has it; NaN if none is.

        Args:
            text_or_ids: A text of any length, or token ids.
            windows: How what is longer than `block_size` is cut: `"half"`, into windows that overlap by half, so that each token
                is predicted from at least half a context; `"eval"`, into consecutive ones, as `kinglet eval` does.
        """
        loss = _kept(self._model.loss(as_input(text_or_ids), windows))
        return float("nan") if loss is None else loss

    def score(self, text_or_ids: str | Ids, *, windows: Literal["half", "eval"] = "half") -> Scores:
        """How probable each token is after those before it; see `Scores`."""
        return Scores(**_kept(self._model.score(as_input(text_or_ids), windows)))

    def eval(
        self,
        data: Data = None,
        *,
        text: Text = None,
        part: Literal["train", "val", "all"] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Measures the exact loss on a text; the result is what `kinglet eval --json` prints.

        Args:
            data: What to measure on, as `train` takes it; without it and `text`, the text that the model was trained on.
            text: A text, or texts, which are documents.
            part: Which part of it; without it, `"val"` of the text that the model was trained on, and `"all"` of another.
            progress: Called with what is being done, and how much of how much is.

        Returns:
            `loss` in nats per token, `loss_stderr`, `bits_per_char`, `bits_per_byte`, `perplexity` and more.
        """
        given = None if data is None and text is None else _data.given(data, text)
        try:
            measured = self._model.eval(given, part, _Sink(progress), progress is not None)
        except DataError as error:
            raise _data.advised(error, data) from None
        found: dict[str, Any] = json.loads(measured)
        return found

    def state_dict(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights by nanoGPT's names, with PyTorch's shapes: read-only float32 arrays.

        The arrays are the model's own memory, not copies, and keep it alive. Tied weights are the same memory twice. Two kinds of
        models have no such memory, and their arrays are copies: those with weights in few bits (w8, w4), which are multiplied out, and
        those with adapters, which are merged.

        >>> state = {name: torch.tensor(weight) for name, weight in model.state_dict().items()}  # doctest: +SKIP
        """
        flat, tensors = self._model.weights()
        return {name: flat[start : start + math.prod(shape)].reshape(shape) for name, start, shape in tensors}

    def __repr__(self) -> str:
        return f"<kinglet.Model {self.run}, step {self.step}, {self.params:,} parameters>"


class Generation(Iterator[str]):
    """A text being generated: iterate over it for its pieces, or ask for all of it with `text`.

    A piece is complete characters, and nothing that could be the beginning of a stop text. Iterating again goes on where it ended.
    """

    __slots__ = ("_generation",)

    def __init__(self, generation: _kinglet.Generation) -> None:
        self._generation = generation

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> str:
        piece = self._generation.next()
        if piece is None:
            raise StopIteration
        return piece

    def text(self) -> str:
        """Generates what is left, and returns the whole text, with the pieces before."""
        self._generation.rest()
        return self._generation.so_far

    @property
    def ids(self) -> npt.NDArray[np.uint32]:
        """The tokens generated so far: uint32, one dimension."""
        import numpy as np

        return np.array(self._generation.ids, dtype=np.uint32)

    @property
    def finish(self) -> str | None:
        """Why the text ended: `"length"`, `"stop"`, `"end"` (the model ended it) or `"context"` (it is full); None before."""
        return self._generation.finish

    def __repr__(self) -> str:
        return f"<kinglet.Generation of {len(self._generation.ids)} tokens so far>"


class Scores:
    """How probable a model finds each token of a text: arrays with an element for each token."""

    __slots__ = ("entropies", "ids", "logprobs", "ranks")

    ids: npt.NDArray[np.uint32]
    """The tokens."""
    logprobs: npt.NDArray[np.float64]
    """The log-probability of each in nats, after those before it; NaN where nothing is predicted, as of the first."""
    ranks: npt.NDArray[np.uint64]
    """How many tokens are at least as probable, with itself: 1 for the most probable one; 0 where nothing is predicted."""
    entropies: npt.NDArray[np.float64]
    """The entropy in nats of what was expected in its place; NaN where nothing is predicted."""

    def __init__(
        self,
        ids: npt.NDArray[np.uint32],
        logprobs: npt.NDArray[np.float64],
        ranks: npt.NDArray[np.uint64],
        entropies: npt.NDArray[np.float64],
    ) -> None:
        self.ids, self.logprobs, self.ranks, self.entropies = ids, logprobs, ranks, entropies

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<kinglet.Scores of {len(self)} tokens>"


class _Sink:
    """Hears what is told on the way: passes on progress, and gives warnings."""

    def __init__(self, progress: Progress | None) -> None:
        if progress is not None and not callable(progress):
            raise TypeError(f"progress is called with what is done, and cannot be {type(progress).__name__}")
        self._progress = progress

    def __call__(self, events: list[str]) -> None:
        for event in map(json.loads, events):
            if event["event"] == "warning":
                # The caller of the function that was called.
                warnings.warn(event["message"], KingletWarning, stacklevel=4)
            elif self._progress is not None:
                self._progress(event["what"], event["done"], event["of"])


_T = TypeVar("_T")


def _kept(of_text: tuple[_T, str | None]) -> _T:
    """What was made of a text; a warning says what of the text the tokenizer does not keep."""
    made, lost = of_text
    if lost is not None:
        warnings.warn(lost, KingletWarning, stacklevel=3)
    return made


def _manner(
    max_tokens: SupportsIndex,
    temperature: float,
    top_k: SupportsIndex,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: SupportsIndex,
    index: SupportsIndex,
    stop: str | Iterable[str],
) -> dict[str, Any]:
    """How a text is generated, as the library takes it."""
    return {
        "max_tokens": as_count("max_tokens", max_tokens),
        "temperature": number("temperature", temperature),
        "top_k": as_count("top_k", top_k),
        "top_p": number("top_p", top_p),
        "min_p": number("min_p", min_p),
        "repetition_penalty": number("repetition_penalty", repetition_penalty),
        "seed": as_count("seed", seed, 2**64 - 1),
        "index": as_count("index", index, 2**64 - 1),
        "stop": [stop] if isinstance(stop, str) else list(stop),
    }
