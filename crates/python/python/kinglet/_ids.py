"""What may stand for token ids, and for runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, SupportsIndex, Union

from ._errors import ConfigError, DataError
from ._settings import path, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Ids = Union[Sequence[int], npt.NDArray[np.integer[Any]]]
    """Token ids: a list, or an array of one dimension."""

    RunLike = Union[str, os.PathLike[str]]
    """A run: its folder, a name in runs/, either with @best, @last or @STEP behind it, or a Run."""


def as_ids(ids: Ids) -> npt.NDArray[np.uint32]:
    """The ids as the library takes them. Of a torch tensor on the CPU, numpy makes an array."""
    import numpy as np

    if isinstance(ids, (str, bytes, bytearray, dict, set)) or not hasattr(ids, "__len__"):
        raise TypeError(f"expected token ids, but got {type(ids).__name__}")
    try:
        array = np.asarray(ids)
    except UnicodeDecodeError:
        # Of str and bytes together, numpy makes str.
        raise TypeError("token ids are integers, but among these are bytes") from None
    if array.ndim != 1:
        raise DataError(f"token ids are a list or an array of one dimension, but this has {array.ndim}")
    if array.size == 0:
        return np.empty(0, np.uint32)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"token ids are integers, but these are {array.dtype}")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 0xFFFF_FFFF:
        raise DataError(f"{low if low < 0 else high} is no token id")
    return np.ascontiguousarray(array, dtype=np.uint32)


def as_input(text_or_ids: str | Ids) -> str | npt.NDArray[np.uint32]:
    """A text as it is, or token ids as the library takes them."""
    return text_or_ids if isinstance(text_or_ids, str) else as_ids(text_or_ids)


def as_count(key: str, value: SupportsIndex, most: int = 2**63 - 1) -> int:
    """A whole number from 0 on."""
    number = whole(key, value)
    if not 0 <= number <= most:
        raise ConfigError(f"{key} = {number}: must be 0 to {most}")
    return number


def as_run(run: RunLike) -> str:
    """What the command would be told of a run."""
    found = path("run", run)
    if found is None:
        raise TypeError("expected a run's folder or name, but got None")
    return found


def as_checkpoint(checkpoint: str | int | None) -> str | None:
    """What the command would be told of a checkpoint."""
    if checkpoint is None or isinstance(checkpoint, str):
        return checkpoint
    return str(as_count("checkpoint", checkpoint))
