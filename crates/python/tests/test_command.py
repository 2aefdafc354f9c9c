"""The command `kinglet`, in Python's process and as a function."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from trained import SMALL, SONG, folder, here, interrupted, kinglet as program, printed  # noqa: F401

import kinglet

pytestmark = pytest.mark.usefixtures("here")
LONG = [word for setting in [*SMALL[:5], "max_iters=1000000", "eval_interval=50", "eval_iters=1"] for word in ("--set", setting)]


def started(*words, folder, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "kinglet", *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def until(condition, seconds=30):
    """Waits until something is so."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
    return found


def checkpoints(run):
    """Those after the first update: one from before it says nothing of training."""
    return [path for path in run.glob("checkpoints/*") if path.suffix != ".tmp" and path.name != "step-000000"]


def test_lines_are_those_of_the_command(folder):
    assert kinglet.command("info", "tied") == printed("info", "tied", cwd=folder)
    presets = kinglet.command("presets")
    assert presets and all(isinstance(line, dict) for line in presets)
    [line] = kinglet.command("sample", folder / "runs/tied", "-n", 5, "--temperature", 0.5, "--prompt", "A b")
    assert line["prompt"] == "A b" and line["tokens"] == 5
    # Runs that differ are no error.
    [found] = kinglet.command("compare", "--bits", "tied", "untied")
    assert found["same"] is False


def test_errors_are_those_of_the_library(folder):
    for error, match, words in [
        (kinglet.NotFoundError, "did you mean tied?", ["info", "tide"]),
        (kinglet.NotFoundError, "no such run", ["sample", "nothing-like-it"]),
        (kinglet.ConfigError, "kinglet", ["smaple"]),
        (kinglet.ConfigError, "n_layer", ["train", "--set", "n_layers=3"]),
        (kinglet.DataError, "nothing.txt", ["train", "nothing.txt"]),
        (kinglet.DataError, "ж", ["sample", "tied", "--prompt", "ж"]),
        (kinglet.RunError, "few bits already", ["quantize", "few", "--scheme", "w8", "--out", "x"]),
    ]:
        with pytest.raises(error, match=match) as raised:
            kinglet.command(*words)
        assert type(raised.value) is error
    with pytest.raises(kinglet.DivergedError):
        kinglet.command(
            "train", "song.txt", "--out", "diverged", *LONG, "--set", "learning_rate=10", "--set", "grad_clip=0",
            "--set", "spike_zscore=0.01", "--set", "on_divergence=stop",
        )


def test_what_is_told_comes_through(folder, capsys):
    kinglet.command("sample", "tied", "-n", "1")
    assert "step 20" in capsys.readouterr().err
    with pytest.raises(kinglet.Error):
        kinglet.command("info", "tide")
    assert "error:" not in capsys.readouterr().err


def test_ctrl_c_is_passed_on_and_leaves_a_checkpoint(folder):
    words = ", ".join(map(repr, ["train", "song.txt", "--out", "passed", *LONG]))
    script = f"import kinglet; print('ready'); kinglet.command({words})"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", script], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: checkpoints(folder / "passed"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0 and "KeyboardInterrupt" in err
    assert kinglet.load("passed", checkpoint="last").step > 0
    # It can go on.
    state = json.loads(program("--json", "info", "passed", cwd=folder).splitlines()[0])
    assert state


def test_ctrl_c_ends_a_training_with_130_and_a_checkpoint(folder):
    process = started("train", "song.txt", "--out", "ended", *LONG, folder=folder)
    until(lambda: checkpoints(folder / "ended"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert kinglet.load("ended", checkpoint="last").step > 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_has_nothing_to_save(folder, sent):
    process = started("--json", "sample", "tied", "-n", "100000000", folder=folder)
    time.sleep(1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=5)
    assert process.returncode == -sent and "Traceback" not in err


def test_help_and_versions(folder):
    for words in [["--help"], ["-h"], ["train", "--help"], []]:
        done = subprocess.run([sys.executable, "-m", "kinglet", *words], capture_output=True, text=True)
        assert done.returncode in (0, 2) and "kinglet" in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert program("--version", cwd=folder).split() == ["kinglet", kinglet.__version__]
    done = program("smaple", cwd=folder, ok=False)
    assert done.returncode == 2 and "sample" in done.stderr


def test_a_reader_may_leave_early(folder):
    for words in ["sample tied -n 100000", "keys", "--help"]:
        done = subprocess.run(
            f"{sys.executable!r} -m kinglet {words} 2>err | head -n 1; cat err >&2; exit ${{PIPESTATUS[0]}}",
            shell=True, executable="/bin/bash", cwd=folder, capture_output=True, text=True, timeout=60,
        )
        assert done.returncode == 0 and done.stdout and "Traceback" not in done.stderr, done


def test_the_program_of_the_wheel(folder):
    name = os.path.join(os.path.dirname(sys.executable), "kinglet")
    if not os.path.exists(name):
        pytest.skip("the package is not installed beside this Python")
    done = subprocess.run([name, "--version"], capture_output=True, text=True)
    assert done.stdout.split() == ["kinglet", kinglet.__version__]
    done = subprocess.run(["kinglet", "--json", "info", "tied"], cwd=folder, executable=name, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[0])


def test_completions_are_scripts(folder):
    for shell in ["bash", "zsh", "fish"]:
        script = program("completions", shell, cwd=folder)
        assert "kinglet" in script and "quantize" in script
    checked = subprocess.run(["bash", "-n"], input=program("completions", "bash", cwd=folder), text=True)
    assert checked.returncode == 0


def test_words_and_texts_that_are_no_ascii(folder):
    done = program("sample", "größe-ж", cwd=folder, ok=False)
    assert done.returncode == 1 and "größe-ж" in done.stderr
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-m", "kinglet", "sample", "größe-ж"], cwd=folder, capture_output=True, env=env)
    assert done.returncode == 1 and "größe-ж".encode() in done.stderr


def test_a_server_in_pythons_process(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = started("serve", "tied", "--port", str(port), folder=folder)
    try:
        def models():
            assert process.poll() is None, process.stderr.read()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
                    return json.load(answer)
            except OSError:
                return None

        assert until(models)["data"]
        body = json.dumps({"model": "tied", "prompt": "A bird", "max_tokens": 5, "seed": 1337, "temperature": 1}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["choices"][0]["text"] == kinglet.load("tied").sample("A bird", max_tokens=5)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) in (0, 130)
    finally:
        process.kill()
        process.communicate()
