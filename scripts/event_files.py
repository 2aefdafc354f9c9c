#!/usr/bin/env python3
"""Reads with TensorBoard and pandas what `kinglet compare --tensorboard DIR --csv FILE` writes, and compares every number
with metrics.jsonl.

    python3 -m venv env && env/bin/pip install tensorboard==2.21.0 pandas
    env/bin/python scripts/event_files.py target/release/kinglet
"""

import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "estimate": {
        "train_loss": "train/loss",
        "val_loss": "val/loss",
        "bits_per_byte": "val/bits_per_byte",
        "old_val_loss": "old_val/loss",
        "tokens": "tokens",
    },
    "step": {"loss": "train/batch_loss", "lr": "lr", "grad_norm": "grad_norm", "tokens_per_s": "tokens_per_s"},
}


def f32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def main():
    kinglet = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def run(*args):
            subprocess.run([kinglet, *args, "--quiet"], cwd=folder, check=True, stdout=subprocess.DEVNULL)

        small = "max_iters=30 eval_interval=10 eval_iters=2 n_layer=1 n_embd=16 log_interval=5".split()
        settings = [word for setting in small for word in ("--set", setting)]
        run("train", "--out", "a", *settings)
        run("finetune", "a", "dates", "--out", "b", "--set", "max_iters=20", "--set", "eval_iters=2")
        run("compare", "a", "b", "--tensorboard", "curves", "--csv", "all.csv")
        table, checked = pandas.read_csv(folder / "all.csv"), 0
        for name in "ab":
            events = EventAccumulator(str(folder / "curves" / name)).Reload()
            seen = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
            times = sorted((point.step, point.wall_time) for points in seen.values() for point in points)
            assert all(a[1] <= b[1] + 1e-6 for a, b in zip(times, times[1:])), f"{name}: time goes back"
            expected = 0
            for line in map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines()):
                rows = table[(table.run == name) & (table.event == line["event"]) & (table.step == line.get("step"))]
                for key, tag in TAGS.get(line["event"], {}).items():
                    if line.get(key) is None:
                        continue
                    values = [point.value for point in seen[tag] if point.step == line["step"]]
                    assert f32(line[key]) in values, f"{name}: {tag} at {line['step']}: {values}, not {line[key]}"
                    assert any(math.isclose(cell, line[key], rel_tol=1e-12) for cell in rows[key]), f"{name}: {key}"
                    expected += 1
            assert expected == sum(map(len, seen.values())), f"{name}: more points than were recorded"
            checked += expected
        print(f"TensorBoard and pandas read {checked} numbers of 2 runs, each as it was recorded")


if __name__ == "__main__":
    main()
