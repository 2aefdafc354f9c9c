#!/usr/bin/env python3
"""Makes folders of runs with plausible curves and valid checksums, for tests and measurements of the page of runs.

    make_runs.py FOLDER [--runs 100] [--points 5000] [--hostile] [--running N] [--append SECONDS]

Each run has a configuration, a tokenizer and metrics, but no checkpoint. With --hostile, names, samples and texts hold markup,
text from right to left, and control characters. With --running N, N runs are locked and grow until this program ends.
"""

import argparse
import hashlib
import json
import math
import random
import time
from pathlib import Path

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "\u202e\u05e9\u05dc\u05d5\u05dd right to left",
    "\u0000\u0007\u001b[31mred\u001b[0m\u200b",
    "</script><script>alert(2)</script>",
    "'; DROP TABLE runs; --",
    "{{7*7}} ${7*7} %s %n",
    "a" * 200,
    "\u732b \U0001f431 e\u0301",
]


def file_name(text):
    """What of a text can be the name of a folder."""
    return "".join(c for c in text if c not in "/\0").encode()[:120].decode(errors="ignore").strip(".") or "empty"


def line(event):
    """One line of metrics.jsonl: the checksum is of all before it."""
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
    check = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f'{text[:-1]},"check":"{check}"}}\n'


class Curve:
    """A loss that falls as a power of the step, with noise; the validation loss rises again at the end."""

    def __init__(self, rng, steps):
        self.rng, self.steps = rng, steps
        self.floor, self.first = rng.uniform(0.9, 1.6), rng.uniform(3.5, 4.5)
        self.rate, self.noise = rng.uniform(0.25, 0.5), rng.uniform(0.02, 0.06)
        self.speed = rng.uniform(5e3, 4e4)
        self.best = (math.inf, 0)

    def loss(self, step):
        return self.floor + (self.first - self.floor) * (1 + step / 20) ** -self.rate

    def step(self, step, lr):
        loss = self.loss(step) + self.rng.gauss(0, self.noise)
        warmup = min(1, step / (0.02 * self.steps))
        lr = lr * warmup * (0.1 + 0.45 * (1 + math.cos(math.pi * step / self.steps)))
        norm = 0.3 + 1.5 * self.rng.random() * (1 + step / 50) ** -0.3
        return {"event": "step", "step": step, "loss": loss, "lr": lr, "grad_norm": norm,
                "tokens_per_s": self.speed * self.rng.uniform(0.95, 1.05)}

    def estimate(self, step, tokens_per_step):
        train = self.loss(step) + self.rng.gauss(0, 0.005)
        val = train + 0.25 * (step / self.steps) ** 2 + self.rng.gauss(0, 0.005)
        self.best = min(self.best, (val, step))
        return {"event": "estimate", "step": step, "train_loss": train, "val_loss": val, "bits_per_byte": val / math.log(2),
                "tokens": float(step * tokens_per_step), "train_s": step * tokens_per_step / self.speed}


def config(rng, sha256, steps, interval):
    """A configuration, sealed as kinglet seals it."""
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in {
        "format_version": 1, "vocab_size": 3, "data": ["tiny-shakespeare"], "tokenizer_sha256": sha256,
        "block_size": 64, "batch_size": rng.choice([16, 32]), "n_layer": rng.choice([2, 4, 6]), "n_head": 4,
        "n_embd": 128, "max_iters": steps, "eval_interval": interval, "log_interval": 1,
        "learning_rate": rng.choice([1e-3, 3e-4, 3e-3]), "seed": rng.randrange(10),
    }.items())
    return f"{text}# SHA-256 of all above: {hashlib.sha256(text.encode()).hexdigest()}\n"


def sample(rng, hostile):
    words = ["the", "king", "and", "his", "crown", "speak", "not", "of", "thee,", "my", "lord.\n", "What", "light"]
    text = " ".join(rng.choice(words) for _ in range(40))
    return text + rng.choice(HOSTILE) if hostile else text


def make(folder, seed, points, hostile, end):
    """Writes a run; how it goes on."""
    rng = random.Random(seed)
    interval = max(1, points // 50)
    folder.mkdir(parents=True)
    tokenizer = json.dumps({"format_version": 1, "kind": "char", "chars": "abc"})
    (folder / "tokenizer.json").write_text(tokenizer)
    steps = points if end else 10 * points
    (folder / "config.toml").write_text(config(rng, hashlib.sha256(tokenizer.encode()).hexdigest(), steps, interval))
    curve, lr, each = Curve(rng, steps), 10 ** rng.uniform(-4, -2.5), 64 * 16
    with open(folder / "metrics.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for step in range(points + 1):
            if step:
                file.write(line(curve.step(step, lr)))
            if step % interval == 0:
                file.write(line(curve.estimate(step, each)))
                file.write(line({"event": "sample", "step": step, "text": sample(rng, hostile)}))
        if end:
            best, at = curve.best
            last = curve.loss(points)
            file.write(line({
                "event": "done", "step": points, "params": 800_000, "train_loss": last, "val_loss": last + 0.25,
                "val_loss_exact": last + 0.25, "val_loss_stderr": 0.01, "bits_per_byte": 2.0, "best_val_loss": best,
                "best_step": at, "entropy_floor": 0.8, "baseline": {"name": rng.choice(HOSTILE) if hostile else "5-gram",
                "nats_per_token": 1.9}, "ms_per_step": 20.0, "tokens_per_s": curve.speed, "train_s": 100.0, "wall_s": 120.0}))
    return folder, curve, lr, each, interval, rng


def lock(folder):
    """Holds a run as a training does."""
    import fcntl
    import os

    file = open(folder / "lock", "w")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--runs", type=int, default=100)
    arguments.add_argument("--points", type=int, default=5000)
    arguments.add_argument("--hostile", action="store_true")
    arguments.add_argument("--running", type=int, default=0)
    arguments.add_argument("--append", type=float, default=1.0, metavar="SECONDS", help="between updates of running runs")
    asked = arguments.parse_args()
    running = []
    for i in range(asked.runs):
        name = f"{i:03}-{file_name(HOSTILE[i % len(HOSTILE)])}" if asked.hostile else f"run-{i:03}"
        run = make(asked.folder / name, i, asked.points, asked.hostile, i >= asked.running)
        running += [(*run, lock(run[0]))] if i < asked.running else []
    print(f"{asked.runs} runs of {asked.points} points in {asked.folder}", flush=True)
    step = asked.points
    while running:
        time.sleep(asked.append)
        step += 1
        for folder, curve, lr, each, interval, rng, _ in running:
            with open(folder / "metrics.jsonl", "a", encoding="utf-8", newline="\n") as file:
                file.write(line(curve.step(step, lr)))
                if step % interval == 0:
                    file.write(line(curve.estimate(step, each)))
                    file.write(line({"event": "sample", "step": step, "text": sample(rng, asked.hostile)}))


if __name__ == "__main__":
    main()
