"""What Python's values are as settings of a configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

#: What a setting can be. Lists and dicts can hold more of them.
Setting = Any


class Choice(NamedTuple):
    """What to start from, and what to change of it."""

    preset: str | None
    config: str | None
    set: list[str]


class Place(NamedTuple):
    """Where a new run goes: a folder, or a name in `runs/`."""

    out: str | None
    name: str | None


def choice(preset: str | None, config: str | os.PathLike[str] | None, settings: Mapping[str, Setting]) -> Choice:
    """What to start from, as the compiled part takes it."""
    text("preset", preset)
    return Choice(preset, path("config", config), assignments(settings))


def place(out: str | os.PathLike[str] | None, name: str | None) -> Place:
    """Where a new run goes, as the compiled part takes it."""
    text("name", name)
    return Place(path("out", out), name)


def text(what: str, value: object) -> None:
    """Refuses what is neither a text nor left out."""
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {kind(value)}")


def path(what: str, value: str | os.PathLike[str] | None) -> str | None:
    """A path, if one is given."""
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{what} must be a path (a str or a pathlib.Path), not {kind(value)}")
    found = os.fsdecode(os.fspath(value))
    if not found:
        raise ValueError(f"{what} is an empty path")
    if "\0" in found:
        raise ValueError(f"{what} has a zero character in it, which no path has")
    return found


def paths(what: str, value: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None) -> list[str]:
    """One or more names of data."""
    if value is None:
        return []
    if isinstance(value, (str, os.PathLike)):
        value = [value]
    if isinstance(value, (bytes, bytearray)) or not isinstance(value, Iterable):
        raise TypeError(f"{what} must be a path or a list of paths, not {kind(value)}")
    return [found for each in value if (found := path(what, each)) is not None]


def threads(value: int) -> int:
    """A number of threads; 0 is one for each core."""
    number = whole("threads", value)
    if not 0 <= number <= 1024:
        raise ValueError(f"threads = {number}: must be 0 (one for each core) to 1024")
    return number


def whole(what: str, value: object) -> int:
    """A whole number."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be a whole number, not {kind(value)}")
    return value.__index__()  # type: ignore[no-any-return]


def number(what: str, value: object) -> float:
    """A number."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} must be a number, not {kind(value)}")
    return value.__float__()  # type: ignore[no-any-return]


def assignments(settings: Mapping[str, Setting]) -> list[str]:
    """Settings as `key=value`, in the language of configuration files."""
    return [f"{key}={written(key, value)}" for key, value in settings.items()]


def written(key: str, value: Setting) -> str:
    """A value as it is written in TOML."""
    # numpy's numbers are not Python's, but have them.
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, os.PathLike):
        return quoted(os.fsdecode(os.fspath(value)))
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(written(key, each) for each in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(str(name))} = {written(key, each)}" for name, each in value.items()) + "}"
    if value is None:
        raise TypeError(f"{key} = None is no value: leave it out for the default")
    raise TypeError(f"{key} must be a number, a bool, a str or a list of those, not {kind(value)}")


def quoted(value: str) -> str:
    """A string of TOML."""
    escaped = (f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else {'"': '\\"', "\\": "\\\\"}.get(c, c) for c in value)
    return '"' + "".join(escaped) + '"'


def kind(value: object) -> str:
    """What a value is, for a message."""
    return type(value).__name__
