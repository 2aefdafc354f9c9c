"""What the tests share: a text, settings of a model that trains in a moment, and the command."""

import json
import os
import subprocess
import sys

import pytest

#: A model of a moment.
SMALL = dict(
    n_layer=1, n_embd=16, n_head=2, block_size=16, batch_size=4, max_iters=20, eval_interval=10, eval_iters=2, log_interval=5
)
#: What depends on the clock and the machine.
CLOCK = {"tokens_per_s", "left_s", "ms_per_step", "train_s", "wall_s", "peak_memory_mib", "out"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own for each test, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def text():
    return "".join(f"the {i * i % 97}th kinglet weighs {i % 7 + 4} grams.\n" for i in range(400))


def words(settings):
    """Settings as words of the command."""
    written = {True: "true", False: "false"}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={written.get(value, value) if isinstance(value, bool) else value}")]


def command(*args, **kwargs):
    """Runs the command; what it prints with --json."""
    env = os.environ | kwargs.pop("env", {})
    done = subprocess.run(
        [sys.executable, "-m", "kinglet", *map(str, args), "--json"], capture_output=True, text=True, env=env, **kwargs
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def weights(run):
    """The bytes of the tensors of a run's last checkpoint: weights or adapters, and moments."""
    path = os.fspath(run)
    with open(os.path.join(path, "last")) as file:
        checkpoint = os.path.join(path, "checkpoints", file.read().strip())
    names = sorted(name for name in os.listdir(checkpoint) if name.endswith(".safetensors"))
    assert names
    found = {}
    for name in names:
        with open(os.path.join(checkpoint, name), "rb") as file:
            found[name] = file.read()
    return found


def timeless(events):
    """Events without what depends on the clock."""
    return [{key: value for key, value in event.items() if key not in CLOCK} for event in events]


def same(a, b):
    """Asserts that two runs are the same to the bit, weights and events."""
    import kinglet

    a, b = kinglet.Run(a), kinglet.Run(b)
    assert weights(a) == weights(b)
    assert timeless(a.events) == timeless(b.events)
