"""Any command of the program, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import IO, Any

from ._errors import ConfigError, DataError, DivergedError, Error, NotFoundError, RunError

_CLASSES: dict[str, type[Error]] = {
    "config": ConfigError,
    "data": DataError,
    "diverged": DivergedError,
    "not_found": NotFoundError,
    "run": RunError,
    "usage": ConfigError,
}


# Windows sends nothing else to a group of processes.
_INTERRUPT = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT)
# Seconds between two looks at signals.
_LOOK_S = 0.1


def command(*words: str | os.PathLike[str] | int | float) -> list[dict[str, Any]]:
    """Runs a command of the program `kinglet` with `--json`, and returns the lines that it prints.

    >>> kinglet.command("info", "runs/first")  # doctest: +SKIP

    Progress and notes go to `sys.stderr` as they come. Ctrl-C is passed on: a training saves a checkpoint before KeyboardInterrupt is
    raised; a second one ends it at once.

    Args:
        *words: The words of the command line, each as it is: nothing is quoted or split.

    Raises:
        Error: If the command fails; of the class that the library would raise, with its message.
    """
    if not sys.executable:
        raise Error("this Python does not say where its program is (sys.executable), so that no other can be started")
    started = [sys.executable, "-m", "kinglet", "--json", *(os.fspath(w) if isinstance(w, os.PathLike) else str(w) for w in words)]
    # A group of its own: Ctrl-C in a terminal would reach it too, and a second signal means to leave at once.
    with subprocess.Popen(
        started,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    ) as process:
        told = threading.Thread(target=_tell, args=(process.stderr,), daemon=True)
        told.start()
        printed, interrupted = _printed(process)
        told.join()
    if interrupted is not None:
        raise interrupted
    lines: list[dict[str, Any]] = [json.loads(line) for line in printed.splitlines() if line.strip()]
    if lines and lines[-1].get("event") == "error":
        error = lines[-1]
        raise _CLASSES.get(error.get("kind", ""), Error)(error["message"])
    # 1 without an error: two runs that were compared differ.
    if process.returncode not in (0, 1):
        raise Error(f"kinglet {' '.join(map(str, words))}: ended with the status {process.returncode}")
    return lines


def _printed(process: subprocess.Popen[str]) -> tuple[str, KeyboardInterrupt | None]:
    """What the process prints until it ends, and the interrupt that was passed on to it, if one was."""
    interrupted = None
    printed: list[str] = []
    reader = threading.Thread(target=_read, args=(process.stdout, printed), daemon=True)
    reader.start()
    while True:
        try:
            # Python looks at signals between two waits. One that comes when a read has just returned would not end the next read.
            while reader.is_alive():
                reader.join(_LOOK_S)
            process.wait()
            return "".join(printed), interrupted
        except KeyboardInterrupt as interrupt:
            interrupted = interrupt
            process.send_signal(_INTERRUPT)
        except BaseException:
            process.kill()
            raise


def _read(stream: IO[str] | None, into: list[str]) -> None:
    """Reads all of a stream."""
    assert stream is not None
    into.append(stream.read())


def _tell(lines: IO[str] | None) -> None:
    """Passes on what a process tells; an error is raised instead."""
    assert lines is not None
    is_error = False
    for line in lines:
        # What belongs to an error is indented below it.
        is_error = line.startswith("error:") or (is_error and line.startswith(" "))
        if not is_error:
            sys.stderr.write(line)
