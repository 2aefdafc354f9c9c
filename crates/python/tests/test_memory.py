"""Memory of many runs in one process."""

import gc
import pathlib
import shutil

import pytest

import kinglet
from conftest import SMALL


def resident_mib():
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not say how much memory a process has")
    return int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024


def test_memory_does_not_grow_over_fifty_trainings(text):
    after = []
    for i in range(50):
        events = []
        run = kinglet.train(text=text, out="run", on_event=events.append, **SMALL)
        assert run.metrics["step"][-1] == 20 and run.plot().svg
        shutil.rmtree("run")
        del run, events
        gc.collect()
        after.append(resident_mib())
    assert after[-1] < after[9] + 8, f"{after[9]:.1f} MiB after ten, {after[-1]:.1f} after fifty"


def test_memory_does_not_grow_over_runs_that_fail(text):
    def fail(event):
        raise ValueError("no more")

    after = []
    for i in range(30):
        with pytest.raises(ValueError, match="no more"):
            kinglet.train(text=text, out="run", on_event=fail, **SMALL)
        shutil.rmtree("run", ignore_errors=True)
        gc.collect()
        after.append(resident_mib())
    assert after[-1] < after[9] + 8, f"{after[9]:.1f} MiB after ten, {after[-1]:.1f} after thirty"
