"""Small runs that tests share, made by the command in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SMALL = [
    "n_layer=2", "n_head=2", "n_embd=32", "block_size=32", "batch_size=4", "max_iters=20", "eval_iters=2", "eval_interval=10",
    "sample_tokens=0",
]
SONG = "A kinglet is a small bird. It weighs as much as a coin, and sings as if it did not know.\n" * 60


def kinglet(*words, cwd, ok=True):
    """Runs the command; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "kinglet", *map(str, words)], cwd=cwd, capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0 or not ok, done.stderr
    return done if not ok else done.stdout


def printed(*words, cwd):
    """The lines of JSON that the command prints."""
    return [json.loads(line) for line in kinglet("--json", *words, cwd=cwd).splitlines()]


def train(folder, name, *words, preset="shakespeare-char", settings=SMALL):
    sets = [word for setting in settings for word in ("--set", setting)]
    kinglet("train", "song.txt", "--quiet", "--preset", preset, "--name", name, *sets, *words, cwd=folder)


def interrupted(script, cwd, after="ready"):
    """Runs a script of Python, interrupts it once it has printed a line, and returns its exit status, output and seconds to its end."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", script], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline().strip() == after
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err, time.monotonic() - began
    finally:
        process.kill()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with runs: `tied` is as nanoGPT's models are, `untied` as the lecture's, `lora` is fine-tuned, `few` is in few bits."""
    folder = tmp_path_factory.mktemp("runs of models")
    (folder / "song.txt").write_text(SONG)
    train(folder, "tied")
    train(folder, "untied", preset="big-0.2m")
    kinglet(
        "finetune", "tied", "song.txt", "--quiet", "--name", "lora", "--set", "lora_rank=2", "--set", "max_iters=10",
        "--set", "sample_tokens=0", "--set", "learning_rate=0.1", cwd=folder,
    )
    kinglet("quantize", "tied", "--scheme", "w8", "--out", "runs/few", "--no-report", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def chat(folder):
    """A run that learned from conversations."""
    talk = {"messages": [{"role": "user", "content": "who sings?"}, {"role": "assistant", "content": "the bird"}]}
    (folder / "chat.jsonl").write_text(f"{json.dumps(talk)}\n" * 40)
    sets = [word for setting in SMALL for word in ("--set", setting)]
    kinglet("train", "chat.jsonl", "--quiet", "--name", "chat", *sets, cwd=folder)
    return folder / "runs/chat"


@pytest.fixture
def here(folder):
    """The same folder, as the current one."""
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def rss():
    """Memory of this process that is in use, in MiB."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
