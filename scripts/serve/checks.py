"""Checks as functions: what a function's docstring says holds if it returns."""

import traceback

# The checks of each part, in the order in which they are written.
PARTS = {}


def check(part):
    """Adds a function to a part."""

    def add(function):
        PARTS.setdefault(part, []).append(function)
        return function

    return add


def run(report, part, *args):
    """All checks of a part; one that fails does not keep the others from being made."""
    for function in PARTS[part]:
        what = " ".join(function.__doc__.split()).rstrip(".")
        try:
            function(*args)
            report.holds(part, what, True)
        except Exception as error:
            frames = [f"{f.name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__) if "scripts/serve" in f.filename]
            said = f"{type(error).__name__}: {error}".strip()[:700]
            report.failed(part, what, f"{said} [{' < '.join(reversed(frames[-3:]))}]")


def same(got, wanted):
    assert got == wanted, f"{str(got)[:300]!r} instead of {str(wanted)[:300]!r}"


def refused(kind, call, **wanted):
    """The exception that a call must raise, with what must stand in it."""
    try:
        answer = call()
    except kind as error:
        for name, value in wanted.items():
            assert getattr(error, name) == value, f"{name} is {getattr(error, name)!r}, not {value!r}: {error}"
        return error
    raise AssertionError(f"not refused with {kind.__name__}: {str(answer)[:300]}")
