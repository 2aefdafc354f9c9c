"""What stops a run: signals, exceptions, a process that forks."""

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

import kinglet
from conftest import SMALL, same, weights

#: A run that takes longer than anybody waits.
LONG = SMALL | dict(max_iters=1_000_000, eval_interval=1_000_000)

SCRIPT = """
import json, sys, kinglet
settings = json.loads(sys.argv[1])
def told(event):
    if event["event"] == "step" and event["step"] == 50:
        print("training", flush=True)
try:
    kinglet.train("my.txt", out="run", on_event=told, progress=False, **settings)
except KeyboardInterrupt as error:
    print("interrupted", *getattr(error, "__notes__", []), flush=True)
"""


def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_bits(text):
    pathlib.Path("my.txt").write_text(text)
    settings = LONG | dict(max_iters=100_000)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(settings)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "training\n"
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out.startswith("interrupted"), err
    assert time.monotonic() - asked < 10
    if sys.version_info >= (3, 11):
        assert "kinglet.resume('run')" in out
    run = kinglet.Run("run")
    step = run.summary["step"]
    assert run.summary["state"] == "stopped" and 50 <= step < 100_000
    kinglet.resume(run, max_iters=step + 60)
    whole = kinglet.train("my.txt", out="whole", **(settings | dict(max_iters=step + 60)))
    assert weights(run) == weights(whole)


def test_ctrl_c_while_a_text_is_read(text):
    def documents():
        for i in range(10_000_000):
            if i == 1000:
                os.kill(os.getpid(), signal.SIGINT)
            yield text

    with pytest.raises(KeyboardInterrupt):
        kinglet.train(documents(), out="run", **LONG)
    assert not os.path.exists("run")
    # While the compiled part learns a vocabulary, which nothing stops: nobody waits for it, and nothing is left.
    numbers = "".join(f"{i * 7919 % 1_000_003} " for i in range(400_000))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        kinglet.train(text=numbers, out="run", tokenizer="bpe:20000", **LONG)
    assert time.monotonic() - began < 2
    while os.path.exists("run"):
        assert time.monotonic() - began < 120
        time.sleep(0.1)


def test_an_exception_in_a_callback_stops_the_run_there(text):
    class Enough(Exception):
        pass

    heard = []

    def enough(event):
        heard.append(event["event"])
        if event["event"] == "estimate" and event["step"] == 20:
            raise Enough("enough")

    settings = LONG | dict(eval_interval=10)
    with pytest.raises(Enough, match="enough") as raised:
        kinglet.train(text=text, out="run", on_event=enough, **settings)
    assert heard[-1] == "estimate", "nothing is heard after it"
    if sys.version_info >= (3, 11):
        assert "kinglet.resume('run')" in raised.value.__notes__[0]
    run = kinglet.Run("run")
    assert run.summary["step"] == 20
    kinglet.resume(run, text=text, max_iters=30)
    whole = kinglet.train(text=text, out="whole", **(settings | dict(max_iters=30)))
    assert weights(run) == weights(whole)


def test_an_exception_at_a_step_stops_it_soon(text):
    def enough(event):
        if event["event"] == "step" and event["step"] == 7:
            raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        kinglet.train(text=text, out="run", on_event=enough, **LONG)
    assert kinglet.Run("run").summary["state"] == "stopped"


def test_a_slow_callback_does_not_lose_events(text):
    heard = []

    def slow(event):
        if event["event"] == "step":
            heard.append(event["step"])
            if len(heard) % 500 == 0:
                time.sleep(0.05)

    kinglet.train(text=text, on_event=slow, **(SMALL | dict(max_iters=4000, eval_interval=4000)))
    assert heard == list(range(1, 4001))


def test_a_callback_can_ask_the_run(text):
    seen = []

    def told(event):
        if event["event"] == "estimate":
            seen.append(len(kinglet.Run("run").metrics["step"]))

    kinglet.train(text=text, out="run", on_event=told, **SMALL)
    assert seen[-1] >= 2


def test_ctrl_c_while_another_thread_trains(text):
    ended = []

    def work():
        ended.append(kinglet.train(text=text, out="run", **(SMALL | dict(max_iters=2000))))

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    thread.join()
    assert ended[0].summary["state"] == "done", "a signal is the main thread's"


def test_the_lock_of_python_is_released(text):
    counted = [0, 0.0]
    done = threading.Event()

    def count():
        last = time.monotonic()
        while not done.is_set():
            time.sleep(0.001)
            now = time.monotonic()
            counted[0], counted[1], last = counted[0] + 1, max(counted[1], now - last), now

    thread = threading.Thread(target=count)
    thread.start()
    kinglet.train(text=text, **(SMALL | dict(max_iters=1500, threads=1)))
    done.set()
    thread.join()
    assert counted[0] > 50 and counted[1] < 0.5, counted


def child(number, text):
    os.chdir(f"child{number}")
    run = kinglet.train(text=text, out="run", **SMALL)
    return weights(run)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_after_training(text):
    before = kinglet.train(text=text, out="before", **SMALL)
    kinglet.compare_bits(before, before)
    want = weights(before)
    os.mkdir("child0")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if child(0, text) == want else 2
        finally:
            os._exit(status)
    assert wait(pid) == 0
    for number in (1, 2):
        os.mkdir(f"child{number}")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        done = pool.starmap_async(child, [(1, text), (2, text)])
        assert done.get(timeout=60) == [want, want]
    same(before, kinglet.train(text=text, out="after", **SMALL))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_while_training(text):
    statuses = []

    def told(event):
        if event["event"] == "estimate" and event["step"] == 10:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    os.mkdir("child0")
                    status = 0 if child(0, text) else 2
                finally:
                    os._exit(status)
            statuses.append(wait(pid))

    run = kinglet.train(text=text, on_event=told, **SMALL)
    assert statuses == [0] and run.summary["state"] == "done"


def wait(pid, seconds=60):
    """The exit status of a child; one that hangs is killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"
