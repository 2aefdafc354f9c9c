#!/usr/bin/env python3
"""Measures how well the time left, as the progress bar shows it, agrees with what happens.

    cargo build --release
    python3 scripts/clock.py --data tinyshakespeare            # about eight minutes
    python3 scripts/clock.py --rounds 5 --only big-0.2m

Each run is watched on a terminal of its own. For the moments at which 10 %, 50 % and 90 % of its time have passed, the time
left that was shown last is divided by the time that was left; so is the time planned in all. Shown are the medians of some
rounds. On a machine that does other work, or whose speed drifts, no forecast can be exact.

It needs Python on Linux or macOS, and nothing else.
"""

import argparse
import os
import pathlib
import pty
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import fcntl
import termios

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARES = (0.1, 0.5, 0.9)
# Runs of about half a minute, since the bar shows whole seconds: estimates take most of the time, or steps do. The first is the
# published recipe.
CASES = {
    "big-0.2m": ["--preset", "big-0.2m"],
    "big-0.2m, many estimates": ["--preset", "big-0.2m", "--set", "max_iters=3000", "--set", "eval_interval=50"],
    "big-0.2m, many steps": ["--preset", "big-0.2m", "--set", "max_iters=10000", "--set", "eval_iters=20"],
    "big-2.7m": ["--preset", "big-2.7m", "--set", "max_iters=600", "--set", "eval_iters=50"],
    "big-2.7m, many steps": ["--preset", "big-2.7m", "--set", "max_iters=900", "--set", "eval_iters=5"],
}
UNITS = {"s": 1, "min": 60, "h": 3600, "days": 86400}


def seconds(text):
    """The seconds in a text such as `1 min 05 s`."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([\d.]+) (s|min|h|days)\b", text))


def watch(command, stop_after=None):
    """Runs a command on a terminal. Each (time, seconds left) that it shows, the seconds it plans, and its own seconds."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=child, stderr=child, stdin=subprocess.DEVNULL)
    os.close(child)
    shown, text, stopped = [], "", False
    while True:
        try:
            piece = os.read(parent, 65536).decode(errors="replace")
        except OSError:
            break
        if not piece:
            break
        now = time.monotonic() - began
        text += piece
        found = re.findall(r"((?:[\d.]+ (?:days|h|min|s) ?)+) ?left", piece)
        if found:
            shown.append((now, seconds(found[-1])))
        if stop_after is not None and not stopped and now >= stop_after:
            process.terminate()
            stopped = True
    process.wait()
    planned = re.search(r"about ([\d.]+ \w+) in total", text)
    return shown, planned and seconds(planned[1]), time.monotonic() - began


def ratios(shown, planned, total):
    """What was shown divided by what happened, for each share of the time; and the plan's."""
    found = []
    for share in SHARES:
        at = share * total
        before = [(then, left) for then, left in shown if then <= at]
        if not before:
            found.append(float("nan"))
            continue
        then, left = before[-1]
        found.append(left / (total - then))
    return found + [planned / total if planned else float("nan")]


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--kinglet", default=ROOT / "target" / "release" / "kinglet", help="the program")
    about.add_argument("--data", default="builtin", help="the text [builtin]")
    about.add_argument("--rounds", type=int, default=3, help="runs of each kind [3]")
    about.add_argument("--only", metavar="CASE", help="only the cases whose name contains this")
    args = about.parse_args()
    print(f"{'run':32} {'10 %':>6} {'50 %':>6} {'90 %':>6} {'plan':>6}   seconds")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in CASES.items():
            if args.only and args.only not in name:
                continue
            rounds, resumed, times = [], [], []
            for i in range(args.rounds):
                out = str(pathlib.Path(folder) / f"run{i}")
                shown, planned, total = watch([args.kinglet, "train", args.data, *settings, "--out", out])
                rounds.append(ratios(shown, planned, total))
                times.append(total)
                # The same again, stopped in the middle: what is shown when it goes on.
                out += "-stopped"
                watch([args.kinglet, "train", args.data, *settings, "--out", out], stop_after=0.45 * total)
                shown, planned, rest = watch([args.kinglet, "train", "--resume", "--out", out])
                resumed.append(ratios(shown, planned, rest))
                subprocess.run(["rm", "-r", out, out.removesuffix("-stopped")], check=True)
            for label, found in ((name, rounds), (f"{name}, resumed", resumed)):
                medians = [statistics.median(values) for values in zip(*found)]
                worst = max([worst] + [abs(ratio - 1) for ratio in medians[:3]])
                cells = " ".join(f"{ratio:6.2f}" for ratio in medians)
                print(f"{label:32} {cells}   {statistics.median(times):.0f}", flush=True)
    print(f"at most {100 * worst:.0f} % off")
    return 0 if worst <= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
