"""Records as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

#: Columns of numbers, all of the same length.
Columns = dict[str, "numpy.ndarray[Any, Any]"]

#: What is counted.
COUNTS = ("step",)


def columns(records: Sequence[dict[str, Any]], names: Sequence[str], maybe: Sequence[str] = ()) -> Columns:
    """The columns of these names, and of those of `maybe` that any record has. What is missing is NaN."""
    import numpy

    found = [*names, *(name for name in maybe if any(name in record for record in records))]
    return {name: column([record.get(name) for record in records], name in COUNTS, numpy) for name in found}


def column(values: list[Any], counts: bool, numpy: Any) -> numpy.ndarray[Any, Any]:
    """Values as an array: whole numbers, or else numbers with NaN for those that are missing."""
    if counts:
        return numpy.array(values, dtype=numpy.int64)  # type: ignore[no-any-return]
    return numpy.array([float("nan") if value is None else value for value in values], dtype=numpy.float64)  # type: ignore[no-any-return]
