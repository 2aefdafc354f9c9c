#!/usr/bin/env python3
"""Runs the experiments of scripts/recipes.toml on Tiny Shakespeare and writes the tables of docs/RECIPES.md.

Needs Python 3.11 and a kinglet (`cargo build --release`), no packages. Runs that exist are kept and not repeated; those that
were interrupted go on.

    python3 scripts/recipes.py --seeds 3
    python3 scripts/recipes.py --only ingredients --out /tmp/recipes
    python3 scripts/recipes.py --records runs/speedrun/RECORDS.md    # adds the rows that `kinglet speedrun` wrote
    python3 scripts/recipes.py --quick          # 300 steps each: a check that everything works; writes no table
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
REPORT = ROOT / "docs" / "RECIPES.md"
# Updates of the published models; each of them, and of every recipe, learns from 512 tokens.
PUBLISHED_STEPS = 5000
# The final loss of the larger published model. The tables say when each recipe reached it.
MARK = 1.7088
HEAD = (
    "| recipe | parameters | train loss | val loss | val, exact | tokens to the published loss | ms a step | s trained | s to 1.7088 |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def folder_name(row, seed, quick):
    """A folder for a run, whatever letters its settings have."""
    words = "-".join([row["preset"], *row.get("set", [])])
    return re.sub(r"[^A-Za-z0-9._-]", "_", words) + f"-seed{seed}" + ("-quick" if quick else "")


def events(folder):
    """The events of a run; none if it is not there."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def train(kinglet, row, seed, folder, quick):
    """The events of a run that is done: an earlier one, or one that is trained now."""
    done = lambda all: any(event["event"] == "done" for event in all)
    found = events(folder)
    if done(found):
        return found
    if (folder / "config.toml").exists():
        arguments = ["--resume", "--out", folder]
    else:
        settings = row.get("set", []) + (["max_iters=300", "eval_iters=20"] if quick else [])
        sets = [word for setting in settings for word in ("--set", setting)]
        arguments = ["tinyshakespeare", "--preset", row["preset"], *sets, "--seed", str(seed), "--out", folder]
    # What it prints is in metrics.jsonl, too.
    status = subprocess.run([kinglet, "--json", "train", *arguments], stdout=subprocess.DEVNULL).returncode
    found = events(folder)
    if status or not done(found):
        sys.exit(status or 1)
    return found


def spread(values):
    """Mean and standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def reached(runs, loss, key):
    """The mean of `key` at the first estimate that reaches `loss`; none if a run never does."""
    firsts = []
    for run in runs:
        at = [e[key] for e in run if e["event"] == "estimate" and e["val_loss"] is not None and e["val_loss"] <= loss]
        if not at:
            return None
        firsts.append(at[0])
    return statistics.fmean(firsts)


def line(runs, published):
    """The cells of a row, except its name."""
    done = [next(event for event in run if event["event"] == "done") for run in runs]
    mean = lambda key: spread([event[key] for event in done])[0]

    def loss(key):
        middle, deviation = spread([event[key] for event in done])
        return f"{middle:.4f} ± {deviation:.4f}" if len(done) > 1 else f"{middle:.4f}"

    step, seconds = reached(runs, published, "step"), reached(runs, MARK, "train_s")
    return " | ".join([
        str(done[0]["params"]),
        loss("train_loss"),
        loss("val_loss"),
        loss("val_loss_exact"),
        "not reached" if step is None else f"{100 * step / PUBLISHED_STEPS:.0f} %",
        f"{mean('ms_per_step'):.2f}",
        # Estimates are not training.
        f"{mean('ms_per_step') * mean('step') / 1e3:.0f}",
        "-" if seconds is None else f"{seconds:.1f}",
    ])


def around(text, name):
    """The text before and after the table of that name."""
    match = re.search(f"<!-- table: {re.escape(name)} -->\n(.*?)<!-- end of table -->", text, re.DOTALL)
    if not match:
        sys.exit(f"{REPORT} has no place for the table {name}")
    return text[: match.start(1)], text[match.end(1) :]


def is_record(line):
    """Whether a line is a row of a record: they begin with the date."""
    return re.match(r"\| \d{4}-\d{2}-\d{2} \|", line)


def add_records(page, written):
    """The page with the rows of a RECORDS.md of `kinglet speedrun`, of which those that are there already are left out."""
    before, behind = around(page, "records")
    table = page[len(before) : len(page) - len(behind)].splitlines()
    head = [line for line in table if not is_record(line)]
    lines = written.splitlines()
    if not set(head) <= set(lines):
        sys.exit("the file has another head than the table: was it written by this version of kinglet?")
    rows = [line for line in table if is_record(line)]
    new = [line for line in lines if is_record(line) and line not in rows]
    # By track, and within a track by date.
    rows = sorted(rows + new, key=lambda row: [cell.strip() for cell in row.split("|")][2:0:-1])
    return before + "".join(f"{line}\n" for line in head + rows) + behind, len(new)


def machine():
    """How many cores of which processor, and its vector instructions."""
    path = pathlib.Path("/proc/cpuinfo")
    info = path.read_text() if path.exists() else ""
    name = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    vectors = next((f" ({isa})" for isa in ("avx512", "avx2") if isa in info), "")
    return f"{os.cpu_count()} cores of: {name[1] if name else 'unknown processor'}{vectors}"


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--seeds", type=int, default=1, help="runs of each recipe, with seeds 1, 2, … [1]")
    about.add_argument("--only", metavar="TABLE", help="only the recipes of this table")
    about.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/recipes"), help="the folder of the runs")
    about.add_argument("--quick", action="store_true", help="a short check: 300 steps, and no table is written")
    about.add_argument("--kinglet", default=ROOT / "target" / "release" / "kinglet", help="the program")
    about.add_argument("--records", type=pathlib.Path, metavar="FILE", help="only add the rows of this RECORDS.md")
    args = about.parse_args()
    if args.records:
        page, new = add_records(REPORT.read_text(encoding="utf-8"), args.records.read_text(encoding="utf-8"))
        REPORT.write_text(page, encoding="utf-8")
        print(f"{new} new rows in {REPORT}")
        return
    tables = tomllib.loads((HERE / "recipes.toml").read_text(encoding="utf-8"))["table"]
    names = [table["name"] for table in tables]
    if args.only and args.only not in names:
        about.error(f"there is no table {args.only!r} of recipes; there are {', '.join(names)}")
    tables = [table for table in tables if args.only in (None, table["name"])]
    # Before hours of training: is there a place for what comes out?
    for table in tables:
        around(REPORT.read_text(encoding="utf-8"), table["name"])
    for table in tables:
        lines = HEAD
        for row in table["row"]:
            runs = []
            for seed in range(1, args.seeds + 1):
                print(f"--- {row['name']} with seed {seed}", flush=True)
                folder = args.out / folder_name(row, seed, args.quick)
                runs.append(train(args.kinglet, row, seed, folder, args.quick))
            lines += f"| {row['name']} | {line(runs, table['published'])} |\n"
        print(f"\n{table['name']}\n\n{lines}", flush=True)
        if not args.quick:
            seeds = "Seed 1" if args.seeds == 1 else f"Seeds 1 to {args.seeds}, means ± standard deviations"
            before, behind = around(REPORT.read_text(encoding="utf-8"), table["name"])
            note = f"\n{seeds}; {datetime.date.today()}, on {machine()}.\n"
            REPORT.write_text(before + lines + note + behind, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
