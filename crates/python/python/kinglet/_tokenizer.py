"""Tokenizers: text to token ids and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _kinglet
from ._ids import as_ids, as_run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ._ids import Ids, RunLike


class Tokenizer:
    """Converts text to token ids and back.

    A model has one as `model.tokenizer`; `load` reads that of a run, or a Hugging Face `tokenizer.json`. It can be pickled.

    >>> tokenizer.decode(tokenizer.encode("To be"))  # doctest: +SKIP
    'To be'
    """

    __slots__ = ("_tokenizer",)

    def __init__(self, tokenizer: _kinglet.Tokenizer) -> None:
        if not isinstance(tokenizer, _kinglet.Tokenizer):
            raise TypeError("kinglet.Tokenizer.load(run_or_file) reads a tokenizer")
        self._tokenizer = tokenizer

    @staticmethod
    def load(run_or_file: RunLike) -> Tokenizer:
        """Reads the tokenizer of a run, or a `tokenizer.json`.

        Raises:
            NotFoundError: If there is neither.
            DataError: If the file is no tokenizer.
        """
        return Tokenizer(_kinglet.Tokenizer.load(as_run(run_or_file)))

    @staticmethod
    def from_json(text: str, *, begin: str = "", end: str = "") -> Tokenizer:
        """Makes a tokenizer of the content of a `tokenizer.json`.

        Args:
            text: The content.
            begin: The token that begins texts, as it is written; none if empty.
            end: The token that ends texts; the tokenizer's own if empty.
        """
        return Tokenizer(_kinglet.Tokenizer.from_json(text, begin, end))

    def to_json(self) -> str:
        """The content of its `tokenizer.json`, which Hugging Face's tokenizers read too."""
        return self._tokenizer.to_json()

    def encode(self, text: str, *, special: bool = True) -> npt.NDArray[np.uint32]:
        """The token ids of a text: uint32, one dimension.

        Args:
            text: The text.
            special: Whether a special token is meant where it is written out, such as `<|endoftext|>`; otherwise it is text.

        Raises:
            DataError: If there are characters that are not in the vocabulary; the message names them.
        """
        return self._tokenizer.encode(text, special)

    def decode(self, ids: Ids) -> str:
        """The text of token ids. What is no text, such as part of a character or an unknown id, becomes U+FFFD."""
        return self._tokenizer.decode(as_ids(ids))

    @property
    def vocab_size(self) -> int:
        """The size of the vocabulary: one more than the largest id."""
        return self._tokenizer.vocab_size

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens: their ids, by how they are written."""
        return dict(self._tokenizer.special_tokens)

    @property
    def begin_of_text(self) -> int | None:
        """The id of the token before each document and prompt, if there is one."""
        token = self._tokenizer.begin_of_text
        return None if token is None else token[1]

    @property
    def end_of_text(self) -> int | None:
        """The id of the token that separates documents, if there is one."""
        token = self._tokenizer.end_of_text
        return None if token is None else token[1]

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"<kinglet.Tokenizer of {self.vocab_size} {self._tokenizer.unit}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tokenizer):
            return NotImplemented
        return self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def __reduce__(self) -> tuple[object, tuple[str, str, str]]:
        return _of_parts, self._parts()

    def _parts(self) -> tuple[str, str, str]:
        begin, end = self._tokenizer.begin_of_text, self._tokenizer.end_of_text
        return self.to_json(), "" if begin is None else begin[0], "" if end is None else end[0]


def _of_parts(text: str, begin: str, end: str) -> Tokenizer:
    return Tokenizer.from_json(text, begin=begin, end=end)
