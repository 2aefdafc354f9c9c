"""How much longer the Python module takes for a training than the command: wall time of both, in turns, on the same text and settings.

    python scripts/python_overhead.py [--rounds 6] [KEY=VALUE ...]

Each training of the module is one in a process that has the module already, with `on_event` (every event reaches Python) and without.
The command's is the process from start to end, less the time of `kinglet --version`. Medians are of the differences within a round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("settings", nargs="*", default=["max_iters=400", "eval_interval=200"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args.rounds, args.settings)


def measure(folder, rounds, settings):
    import kinglet

    given = {key: json.loads(value) for key, value in (setting.split("=", 1) for setting in settings)}
    words = [word for setting in settings for word in ("--set", setting)]
    program = [sys.executable, "-m", "kinglet"]

    def seconds(work):
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    def run(words):
        subprocess.run([*program, *words], check=True, capture_output=True)

    ways = {
        "command": lambda out: run(["train", "--json", "--out", out, *words]),
        "module": lambda out: kinglet.train(out=out, progress=False, **given),
        "module, on_event": lambda out: kinglet.train(out=out, progress=False, on_event=lambda event: None, **given),
    }
    empty = min(seconds(lambda: run(["--version"])) for _ in range(3))
    times = {name: [] for name in ways}
    for i in range(rounds + 1):
        # Not always in the same order.
        order = list(ways)[i % len(ways) :] + list(ways)[: i % len(ways)]
        for name in order:
            spent = seconds(lambda: ways[name](str(folder / f"{name}-{i}")))
            # The first round warms up.
            if i > 0:
                times[name].append(spent - (empty if name == "command" else 0))
    base = times["command"]
    for name, all_of in times.items():
        more = statistics.median((spent - of) / of for spent, of in zip(all_of, base))
        train = [kinglet.Run(folder / f"{name}-{i}").events[-1]["train_s"] for i in range(1, rounds + 1)]
        print(f"{name}: median {statistics.median(all_of):.3f} s ({100 * more:+.2f} %), of which training {statistics.median(train):.3f} s")


if __name__ == "__main__":
    main()
