#!/usr/bin/env python3
"""Draws all pictures of docs/img again: trains what is not there yet, and draws from what is.

    cargo build --release
    python3 scripts/pictures.py --out /tmp/pictures            # about half an hour on two cores

The runs are those of scripts/recipes.py, scripts/finetuning.py and `kinglet reproduce`, in folders of those names in --out, so
what these have trained there already is used. A run whose drawing is of an older kinglet is not trained again: `kinglet train
--resume` with one step more would change its numbers, so the drawing is left out and named. Needs Python 3.11 and no packages.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
IMAGES = ROOT / "docs" / "img"
# The folders that scripts/recipes.py makes for seed 1 of the published recipe, the tuned one, and the tuned architecture.
RECIPES = {"published": "big-0.2m-seed1", "recipe": "big-0.2m-tuned-seed1", "architecture": "kinglet-0.2m-seed1"}
TUNING = ["--sweep", "learning_rate", "--sweep", "muon_lr=0.01..0.1", "--sweep", "muon_momentum=[0.9, 0.95]"]


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--out", type=pathlib.Path, required=True, help="folder of the runs")
    about.add_argument("--kinglet", type=pathlib.Path, default=ROOT / "target" / "release" / "kinglet", help="the program")
    about.add_argument("--quick", action="store_true", help="a short check with fewer steps, into --out/img")
    args = about.parse_args()
    images = args.out / "img" if args.quick else IMAGES
    images.mkdir(parents=True, exist_ok=True)
    kinglet = args.kinglet.resolve()
    published(kinglet, args.out, images, args.quick)
    recipes(kinglet, args.out, images, args.quick)
    finetuning(kinglet, args.out, images, args.quick)
    tuning(kinglet, args.out, images, args.quick)
    print(f"drawn: {', '.join(sorted(path.name for path in images.glob('*.svg')))}")


def call(*command):
    print("$", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True)


def train(kinglet, folder, *arguments):
    """A run in a folder, if it is not done."""
    metrics = folder / "metrics.jsonl"
    if metrics.exists() and '"event":"done"' in metrics.read_text(encoding="utf-8"):
        return folder
    if (folder / "config.toml").exists():
        call(kinglet, "-q", "train", "--resume", "--out", folder)
    else:
        call(kinglet, "-q", *arguments, "--out", folder)
    return folder


def few(quick, steps=200):
    """Settings of a run that only shows that everything works."""
    values = (f"max_iters={steps}", "eval_interval=20", "eval_iters=5")
    return [word for value in values for word in ("--set", value)] if quick else []


def published(kinglet, out, images, quick):
    """The two published models, as `kinglet reproduce` trains them."""
    for preset in ("big-0.2m", "big-2.7m"):
        folder = out / "reproduce" / f"{preset}-seed1"
        train(kinglet, folder, "train", "tinyshakespeare", "--preset", preset, "--seed", "1", *few(quick, 60))
        shutil.copy(folder / "loss.svg", images / f"{preset}-loss.svg")


def recipes(kinglet, out, images, quick):
    """Three recipes in one drawing. Whoever reads it sees the names of the folders."""
    named = out / "recipes-named"
    for name, folder in RECIPES.items():
        preset = folder.removesuffix("-seed1")
        run = out / "recipes" / folder
        train(kinglet, run, "train", "tinyshakespeare", "--preset", preset, "--seed", "1", *few(quick))
        # A copy without the checkpoints has the name that is shown.
        shutil.rmtree(named / preset, ignore_errors=True)
        shutil.copytree(run, named / preset, ignore=shutil.ignore_patterns("checkpoints", "lock"))
    runs = [named / folder.removesuffix("-seed1") for folder in RECIPES.values()]
    call(kinglet, "-q", "compare", *runs, "--by", "tokens", "--svg", images / "recipes.svg")


def finetuning(kinglet, out, images, quick):
    """What is forgotten without replay, and with a share of 0.3."""
    folder = out / "finetuning"
    base_settings = ["--set", "eval_interval=1000", "--set", "eval_iters=50"]
    base = train(kinglet, folder / "play-big-0.2m", "train", "--preset", "big-0.2m", *(few(quick) or base_settings))
    values = ("max_iters=1000", "eval_interval=50", "eval_iters=50", "learning_rate=0.002")
    settings = [word for value in values for word in ("--set", value)]
    for name, share in (("forgets", "0"), ("replays", "0.3")):
        run = folder / f"replay-{share}"
        train(kinglet, run, "finetune", base, "logbook", "--replay", share, *settings, *few(quick))
        shutil.copy(run / "loss.svg", images / f"finetune-{name}.svg")


def tuning(kinglet, out, images, quick):
    """The search for the tuned recipe of the small preset."""
    folder = out / "tune-0.2m"
    if not (folder / "tune.svg").exists():
        if (folder / "tune.json").exists():
            call(kinglet, "-q", "tune", "--resume", "--out", folder)
        else:
            # Nesterov momentum and so on are those of the preset.
            settings = few(quick, 60) + (["--trials", "6", "--budget", "2m"] if quick else ["--trials", "12", "--budget", "15m"])
            preset = ["--preset", "big-0.2m-tuned"]
            call(kinglet, "-q", "tune", "tinyshakespeare", *preset, *TUNING, *settings, "--out", folder)
    shutil.copy(folder / "tune.svg", images / "tune-0.2m.svg")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
