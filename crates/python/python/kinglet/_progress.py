"""What is shown of work in progress: a line in a terminal, or a line in a notebook that is written anew."""

from __future__ import annotations

import html
import shutil
import sys
import time
from typing import Any

#: Seconds between two looks of what is shown.
INTERVAL = 0.25
#: The parts of the bar.
WIDTH = 24


def of(progress: bool | None) -> Progress:
    """What is shown: if that is left open, something in a notebook or a terminal, and nothing elsewhere."""
    if progress is not None and not isinstance(progress, bool):
        raise TypeError(f"progress must be True, False or None, not {type(progress).__name__}")
    if progress is False:
        return Progress()
    if in_notebook():
        return InNotebook()
    if progress or is_terminal():
        return InTerminal()
    return Progress()


def in_notebook() -> bool:
    """Whether this is a notebook's kernel. IPython is asked only where somebody else has imported it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def is_terminal() -> bool:
    """Whether standard error is a terminal."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        # There is none, or it is closed.
        return False


class Progress:
    """What is shown: here, nothing."""

    shown = False

    def at(self, done: float, line: str) -> None:
        """Shows how much is done, from 0 to 1, and a line about it."""

    def say(self, text: str) -> None:
        """Says something that stays."""

    def end(self, line: str | None = None) -> None:
        """Shows the last line."""


class Shown(Progress):
    """What is shown a few times a second."""

    shown = True

    def __init__(self) -> None:
        self.last = float("-inf")

    def at(self, done: float, line: str) -> None:
        now = time.monotonic()
        if now - self.last >= INTERVAL:
            self.last = now
            self.show(done, line)

    def show(self, done: float, line: str) -> None:
        """Shows it now."""
        raise NotImplementedError


class InTerminal(Shown):
    """A line on standard error."""

    def __init__(self) -> None:
        super().__init__()
        self.terminal = is_terminal()
        self.is_open = False

    def show(self, done: float, line: str) -> None:
        if not self.terminal:
            return
        full = round(WIDTH * min(max(done, 0.0), 1.0))
        text = f"[{'#' * full}{'.' * (WIDTH - full)}] {line}"
        self.write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
        self.is_open = True

    def say(self, text: str) -> None:
        self.clear()
        self.write(text + "\n")

    def end(self, line: str | None = None) -> None:
        self.clear()
        if line:
            self.write(line + "\n")

    def clear(self) -> None:
        """Removes the line."""
        if self.is_open:
            self.write("\r\x1b[K")
            self.is_open = False

    def write(self, text: str) -> None:
        """Writes it, if there is somebody to read it."""
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            # A terminal that is gone is no reason to stop.
            pass


class InNotebook(Shown):
    """A display that is written anew."""

    def __init__(self) -> None:
        super().__init__()
        self.handle: Any = None

    def show(self, done: float, line: str) -> None:
        percent = 100 * min(max(done, 0.0), 1.0)
        bar = f'<progress max="100" value="{percent:.1f}" style="width: 16em; vertical-align: middle"></progress> '
        self.display(bar + html.escape(line), line)

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def end(self, line: str | None = None) -> None:
        if line:
            self.display(html.escape(line), line)
        elif self.handle:
            # A bar that stopped half way would look as if it went on.
            self.display("", "")

    def display(self, rich: str, plain: str) -> None:
        """Displays it, in the place of what was displayed before."""
        from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

        what = {"text/html": rich, "text/plain": plain}
        if self.handle is None:
            self.handle = display(what, raw=True, display_id=True)  # type: ignore[no-untyped-call, unused-ignore]
        elif self.handle:
            self.handle.update(what, raw=True)


def duration(seconds: float) -> str:
    """A time in one or two units, as `1m 20s`."""
    whole = max(0, round(seconds))
    for size, unit, below, smaller in [(86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")]:
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // below}{smaller}"
    return f"{whole}s"
