"""Files that PyTorch, transformers and C programs wrote, imported: logits and losses must be PyTorch's."""

import json
from pathlib import Path

import numpy as np

from .environments import run_module
from .program import Failed

BOUND = 1e-5


def check(kinglet, report, environments, work, only=()):
    folder = work / "imports"
    text = work / "text.txt"
    done = run_module(environments.torch(), "torch_files", folder, text, capture_output=True, text=True)
    if done.returncode:
        report.failed("import", "writing the files", done.stderr[-800:])
        return
    for case in json.loads((folder / "cases.json").read_text()):
        if not only or any(word in case["name"] for word in only):
            one(kinglet, report, folder, case)


def one(kinglet, report, folder, case):
    name = case["name"]
    if "failed" in case:
        report.skip("import", name, f"this transformers cannot make it: {case['failed']}")
        return
    run = folder / name / "run"
    args = ["import", case["path"], "--out", run, *case["options"]]
    if "refused" in case:
        refused(kinglet, report, name, args, run, case["refused"])
        return
    try:
        kinglet(*args)
        theirs = np.load(folder / name / "logits.npy")
        ours = np.stack(kinglet.logits(run, case["windows"], "--reference"))
        report.most("import", f"{name}: logits in f64", worst(ours, theirs), case["bound"])
        ours = np.stack(kinglet.logits(run, case["windows"]))
        # The program computes in f32, so its logits have that much of their own size.
        report.most("import", f"{name}: logits in f32", worst(ours, theirs), case["bound"] * max(1.0, np.abs(theirs).max()))
        measured = kinglet("eval", run, folder / "text.txt", "--split", "all")[-1]
        report.most("import", f"{name}: loss by eval", abs(measured["loss"] - case["loss"]), BOUND)
    except Failed as error:
        report.failed("import", name, str(error))


def worst(ours, theirs):
    return float(np.abs(ours - theirs[..., : ours.shape[-1]]).max()) if ours.shape[:-1] == theirs.shape[:-1] else float("nan")


def refused(kinglet, report, name, args, run, word):
    """Refused by the name of what is in the way, with nothing left behind."""
    try:
        kinglet(*args)
        report.failed("import", f"{name}: refused", "it was imported")
    except Failed as error:
        said = str(error)
        report.holds("import", f"{name}: the error names {word}", word.lower() in said.lower(), said[:300])
    report.holds("import", f"{name}: nothing is left", not Path(run).exists())
