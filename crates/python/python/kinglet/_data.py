"""What to train on: names of data, texts, documents, or token ids."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Union

from . import _kinglet
from ._errors import DataError
from ._settings import kind, path

if TYPE_CHECKING:
    import numpy

#: What can be trained on: a name of data as on the command line (a file, a folder, a pattern, `"builtin"`, ...) or a list of them;
#: an array of token ids; or an iterable of documents, each a `str` or a dict like a line of JSON (`{"prompt": ..., "response": ...}`).
Data = Union[str, "os.PathLike[str]", Iterable[Any], "numpy.ndarray[Any, Any]", None]

#: A text, or an iterable of texts, which are documents.
Text = Union[str, Iterable[str], None]

TEXTS = "to train on texts themselves: text=..."


def given(data: Data, text: Text) -> _kinglet.Data:
    """What to train on, as the compiled part takes it."""
    if data is not None and text is not None:
        raise TypeError("data and text both say what to train on: use only one of them")
    if text is not None:
        return of_text(text)
    if data is None:
        return _kinglet.Data.of_names([])
    if isinstance(data, (str, os.PathLike)):
        return _kinglet.Data.of_names([name(data)])
    if isinstance(data, (list, tuple)):
        return of_list(data)
    if is_array(data):
        return of_array(data)
    refuse(data, "data")
    return _kinglet.Data.of_lines(lines(data, "data"))


def of_text(text: str | Iterable[str]) -> _kinglet.Data:
    """A text, or texts."""
    if isinstance(text, str):
        if not text:
            raise DataError("text is empty")
        try:
            return _kinglet.Data.of_text(text)
        except UnicodeEncodeError as error:
            raise DataError(f"text is not valid Unicode: {error}") from None
    if isinstance(text, os.PathLike):
        raise TypeError("text is the text itself, not a path: use data= for a path")
    refuse(text, "text")
    return _kinglet.Data.of_lines(lines(text, "text", records=False))


def of_list(data: list[Any] | tuple[Any, ...]) -> _kinglet.Data:
    """Names of data, or documents that are dicts."""
    if not data:
        raise DataError("data is an empty list")
    first = data[0]
    if isinstance(first, Mapping):
        return _kinglet.Data.of_lines(lines(data, "data"))
    for i, each in enumerate(data):
        if not isinstance(each, (str, os.PathLike)):
            advice = ": token ids are a numpy array" if isinstance(each, int) else ""
            raise TypeError(f"data[{i}] is {kind(each)}; a list is of paths (str or pathlib.Path) or of dicts{advice}")
    return _kinglet.Data.of_names([name(each) for each in data])


def name(data: str | os.PathLike[str]) -> str:
    """A name of data."""
    found = path("data", data)
    assert found is not None
    if "\n" in found and not os.path.exists(found):
        raise DataError(f"data names a file, a folder or a pattern, but this is a text: {found[:40]!r}...; {TEXTS}")
    return found


def is_array(data: object) -> bool:
    """Whether it is an array of numpy's. Nobody has one who has not imported that."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(data, numpy.ndarray)


def of_array(data: Any) -> _kinglet.Data:
    """Token ids, or an array of texts."""
    if data.ndim != 1:
        raise TypeError(f"an array of token ids has one dimension, this one has the shape {data.shape}: use .ravel()")
    if data.dtype.kind in "OU":
        return _kinglet.Data.of_lines(lines(data, "data"))
    if data.dtype.kind not in "iu":
        raise TypeError(f"token ids are whole numbers, but this array is of {data.dtype}")
    if data.size == 0:
        raise DataError("data is an empty array")
    if int(data.min()) < 0 or int(data.max()) >= 1 << 32:
        at = int(data.argmin() if data.min() < 0 else data.argmax())
        raise DataError(f"id {data[at]} at position {at} is no token id: they begin at 0 and have 32 bits")
    import numpy

    return _kinglet.Data.of_ids(numpy.ascontiguousarray(data, dtype=numpy.uint32))


def refuse(data: object, what: str) -> None:
    """Refuses what can be iterated over, but hardly means documents."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"{what} is {kind(data)}: a text is a str, as bytes.decode() makes it")
    if isinstance(data, Mapping):
        raise TypeError(f"{what} is a dict: a list of dicts is documents, and a list of str is names of files")
    if isinstance(data, (set, frozenset)):
        raise TypeError(f"{what} is a set, which has no order, so that results would differ from run to run: use sorted()")
    if hasattr(data, "columns"):
        raise TypeError(f"{what} is a table ({kind(data)}): choose its column of texts, as in {what}=table['text']")
    if hasattr(data, "read") and hasattr(data, "close"):
        raise TypeError(f"{what} is an open file: give its name, or text=file.read()")
    if not isinstance(data, Iterable):
        advice = " (a list of names, an iterable of documents, or an array of ids)" if what == "data" else ""
        raise TypeError(f"{what} cannot be {kind(data)}: it is a str or an iterable of str{advice}")


def lines(documents: Iterable[Any], what: str, *, records: bool = True) -> bytes:
    """Documents as JSON lines."""
    found = b"".join(line(i, document, what, records) for i, document in enumerate(documents))
    if not found:
        raise DataError(f"{what} has no documents")
    return found


def line(i: int, document: Any, what: str, records: bool) -> bytes:
    """A document as a line of JSON."""
    # A scalar of Arrow's has Python's own.
    if hasattr(document, "as_py"):
        document = document.as_py()
    if isinstance(document, str):
        document = {"text": document}
    elif not (records and isinstance(document, Mapping)):
        advice = ""
        if document is None or document != document:
            advice = ": leave out what is missing, as series.dropna() does"
        elif isinstance(document, int) or hasattr(document, "__index__"):
            advice = ": token ids are a numpy array (of a series: series.to_numpy())"
        raise TypeError(f"document {i} of {what} is {kind(document)}, not a str{' or a dict' if records else ''}{advice}")
    try:
        return json.dumps(dict(document), ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError as error:
        raise DataError(f"document {i} of {what} is not valid Unicode: {error}") from None
    except (TypeError, ValueError) as error:
        raise TypeError(f"document {i} of {what} is nothing that JSON can hold: {error}") from None


def advised(error: DataError, data: Data) -> DataError:
    """The error with advice, if it is that a name of data is none."""
    message = str(error)
    if isinstance(data, (str, list, tuple)) and message.startswith("there is no file"):
        return DataError(f"{message}; {TEXTS}")
    return error

