#!/usr/bin/env python3
"""Measures the examples of docs/guides/finetuning.md: fine-tuning against training from scratch, adapters against all
weights, forgetting with and without replay, and a task.

    cargo build --release
    python3 scripts/finetuning.py --out /tmp/finetuning          # about half an hour on two cores

Runs that exist are kept and not repeated. The tables are printed.
"""

import argparse
import json
import pathlib
import statistics
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEEDS = (1, 2, 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the runs")
    parser.add_argument("--kinglet", type=pathlib.Path, default=ROOT / "target/release/kinglet", help="the program")
    parser.add_argument("--only", choices=["transfer", "adapters", "replay", "task"], help="only this experiment")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for experiment in (transfer, adapters, replay, task):
        if args.only in (None, experiment.__name__):
            experiment(Runs(args.kinglet, args.out))


class Runs:
    """Runs of kinglet in a folder."""

    def __init__(self, kinglet, folder):
        self.kinglet, self.folder = kinglet, folder

    def call(self, *args):
        """The last line of a command's JSON."""
        done = subprocess.run([self.kinglet, *args, "--json"], cwd=self.folder, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    def run(self, name, *args, **settings):
        """The last event of a run, made if it is not there."""
        metrics = self.folder / name / "metrics.jsonl"
        if metrics.exists():
            last = json.loads(metrics.read_text().splitlines()[-1])
            if last["event"] == "done":
                return last
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        return self.call(*args, "--out", name, *sets)

    def base(self, preset):
        """A model of the built-in play, by the published recipe."""
        return self.run(f"play-{preset}", "train", "--preset", preset, eval_interval=1000, eval_iters=50)

    def finetune(self, name, preset, data, *args, **settings):
        self.base(preset)
        return self.run(name, "finetune", f"play-{preset}", data, *args, **settings)


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def spread(values, digits=4):
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def transfer(runs):
    """1000 steps from a model of the play, and up to 5000 from scratch, on the logbook."""
    print("\n## transfer: exact validation loss on the logbook, big-0.2m, three seeds")
    row("from", "steps", "loss", "seconds")
    row("---", "---", "---", "---")
    tuned = dict(learning_rate=8e-3, warmup_iters=50, eval_interval=500, eval_iters=50)
    for steps in (250, 500, 1000):
        done = [
            runs.finetune(f"transfer-{steps}-{s}", "big-0.2m", "logbook", "--seed", str(s), max_iters=steps, **tuned) for s in SEEDS
        ]
        row("the play", steps, spread([d["val_loss_exact"] for d in done]), f"{statistics.median([d['wall_s'] for d in done]):.1f}")
    preset = dict(eval_interval=1000, eval_iters=50)
    for steps, recipe, settings in (
        (1250, "the preset", preset),
        (2500, "the preset", preset),
        (5000, "the preset", preset),
        (1000, "the same schedule", dict(tuned, lr_schedule="linear")),
    ):
        name = f"scratch-{steps}"
        done = [runs.run(f"{name}-{s}", "train", "logbook", "--seed", str(s), max_iters=steps, **settings) for s in SEEDS]
        loss, seconds = spread([d["val_loss_exact"] for d in done]), statistics.median([d["wall_s"] for d in done])
        row(f"scratch, {recipe}", steps, loss, f"{seconds:.1f}")


def adapters(runs):
    """All weights of big-2.7m, and adapters of rank 8 on all matrices of its blocks, on the logbook."""
    print("\n## adapters: big-2.7m on the logbook, 1000 steps")
    row("trains", "parameters", "share", "loss before", "loss after", "improvement", "ms a step", "peak memory, MiB", "weights saved, KiB")
    row(*["---"] * 9)
    common = dict(max_iters=1000, eval_interval=1000, eval_iters=50)
    full_gain = None
    for name, args, settings in (
        ("all", [], dict(learning_rate=1e-3)),
        ("rank 8", ["--lora", "8"], dict(learning_rate=8e-3)),
    ):
        folder = f"adapters-{name.replace(' ', '-')}"
        done = runs.finetune(folder, "big-2.7m", "logbook", *args, **common, **settings)
        trains = runs.call("info", folder)["trainable_params"]
        files = runs.folder / folder / "checkpoints/step-001000"
        saved = [files / file for file in ("adapter.safetensors", "model.safetensors") if (files / file).exists()][0]
        gain = done["val_loss_before"] - done["val_loss"]
        full_gain = full_gain or gain
        row(
            name, trains, f"{100 * trains / done['params']:.2f} %", f"{done['val_loss_before']:.4f}", f"{done['val_loss']:.4f}",
            f"{100 * gain / full_gain:.1f} %", f"{done['ms_per_step']:.1f}", f"{done['peak_memory_mib']:.0f}",
            f"{saved.stat().st_size / 1024:.0f}",
        )  # fmt: skip


def replay(runs):
    """What is forgotten of the play while the logbook is learned, by the share of the play among the sequences."""
    print("\n## replay: big-0.2m, 1000 steps on the logbook; validation estimates")
    row("replay", "logbook before", "logbook after", "play before", "play after")
    row(*["---"] * 5)
    for share in (0, 0.1, 0.3, 0.5):
        settings = dict(max_iters=1000, eval_interval=50, eval_iters=50, learning_rate=2e-3)
        done = runs.finetune(f"replay-{share}", "big-0.2m", "logbook", "--replay", str(share), **settings)
        row(share, *(f"{done[key]:.4f}" for key in ("val_loss_before", "val_loss", "old_val_loss_before", "old_val_loss")))


def task(runs):
    """Dates, written as people do and as ISO 8601 does: how many answers are right to the letter."""
    print("\n## task: big-0.2m on dates, 2000 that it never saw")
    row("steps", "exact match", "seconds", "loss on the play")
    row(*["---"] * 4)
    for steps in (1, 250, 500, 1000, 2000):
        settings = dict(max_iters=steps, eval_interval=1000, eval_iters=50, learning_rate=2e-3)
        done = runs.finetune(f"dates-{steps}", "big-0.2m", "dates", **settings)
        answers = runs.call("eval", f"dates-{steps}", "--checkpoint", "last")["answers"]
        row(steps, f"{100 * answers['exact'] / answers['of']:.2f} %", f"{done['wall_s']:.1f}", f"{done['old_val_loss']:.4f}")


if __name__ == "__main__":
    main()
