"""What is shown of a training: a line in a terminal, a display in a notebook, and nothing elsewhere."""

import os
import subprocess
import sys
import types

import pytest

import kinglet
from conftest import SMALL
from kinglet import _progress

#: Enough steps for progress to be shown more than once.
SOME = SMALL | dict(max_iters=3000, eval_interval=1000, n_embd=32)


def test_nothing_is_shown_where_nobody_looks(text, capfd):
    kinglet.train(text=text, progress=False, **SMALL)
    kinglet.train(text=text, **SMALL)
    assert capfd.readouterr() == ("", ""), "neither by Python nor by the compiled part"


def test_a_line_that_stays_where_it_is_asked_for(text, capsys):
    run = kinglet.train(text=text, progress=True, **SMALL)
    out, err = capsys.readouterr()
    assert out == "" and err.endswith(f"validation loss {run.loss:.4f}, saved in {run.path}\n")


def test_a_bar_in_a_terminal(text):
    pty = pytest.importorskip("pty")
    outside, inside = pty.openpty()
    script = f"import kinglet; kinglet.train(text={text!r}, **{SOME!r})"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=inside, stdout=subprocess.DEVNULL)
    os.close(inside)
    shown = b""
    while True:
        try:
            more = os.read(outside, 1 << 16)
        except OSError:
            break
        if not more:
            break
        shown += more
    assert process.wait() == 0
    lines = shown.decode().split("\r")
    assert any("step " in line and "/3000" in line and "[" in line for line in lines), shown
    assert "done: step 3000, validation loss" in shown.decode()
    bars = [line for line in lines if line.startswith("\x1b[K[")]
    assert bars and all(len(line) <= 80 + len("\x1b[K") for line in bars)


def test_a_display_in_a_notebook(text, monkeypatch):
    class Handle:
        def update(self, what, raw):
            shown.append(what)

    def display(what, raw, display_id):
        shown.append(what)
        return Handle()

    shown = []
    ipython, of_display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    of_display.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", of_display)
    run = kinglet.train(text=text, **SOME)
    assert len(shown) >= 2 and all({"text/html", "text/plain"} == set(what) for what in shown)
    assert "<progress" in shown[0]["text/html"] and "step " in shown[0]["text/plain"]
    assert str(run.path) in shown[-1]["text/plain"]
    # In an IPython that is no notebook, nothing is displayed.
    ipython.get_ipython = lambda: types.SimpleNamespace()
    before = len(shown)
    kinglet.train(text=text, **SMALL)
    assert len(shown) == before


def test_times_are_short():
    for seconds, want in [(0, "0s"), (59.4, "59s"), (80, "1m 20s"), (3600, "1h 0m"), (3 * 86400 + 7200, "3d 2h")]:
        assert _progress.duration(seconds) == want


def test_the_module_begins_at_once():
    script = (
        "import time; began = time.perf_counter(); import kinglet; spent = time.perf_counter() - began\n"
        "import sys; heavy = [name for name in ('pandas', 'IPython', 'torch', 'matplotlib') if name in sys.modules]\n"
        "print(spent, heavy)"
    )
    spent = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        seconds, heavy = done.stdout.split(" ", 1)
        assert heavy.strip() == "[]"
        spent.append(float(seconds))
    assert min(spent) < 0.1, spent
