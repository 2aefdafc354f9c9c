"""What scripts/doors.py and scripts/serve.py share: their options, the environment that they go on in, and how they end."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from .doors.environments import Missing
from .doors.report import number

FLAGS = ("light", "heavy", "json", "write")


def options(description, name, page, helps):
    """The parser of a program's options; `helps` says what is special about some of them."""
    about = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("binary", type=Path, help=helps["binary"])
    which = about.add_mutually_exclusive_group()
    which.add_argument("--light", action="store_true", help=helps["light"])
    which.add_argument("--heavy", action="store_true", help=helps["heavy"])
    about.add_argument("--only", action="append", default=[], metavar="NAME", help=helps["only"])
    about.add_argument("--cache", type=Path, help=f"folder of the environments [default: {name} in the user's cache]")
    about.add_argument("--work", type=Path, help="folder for the models, which is kept [default: a temporary one]")
    about.add_argument("--or-skip", action="store_true", help="say it and succeed where the packages cannot be had, as without a network")
    about.add_argument("--json", action="store_true", help="print one JSON object")
    about.add_argument("--table", type=Path, metavar="FILE", help="also write the lines as Markdown")
    about.add_argument("--write", action="store_true", help=f"also write the measured tables into {page}")
    return about


def go_on(args, name, environment, run_module, more=()):
    """Goes on in the module `proof`, in the environment that `environment` makes in the folder of the cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = (args.cache or base / name).resolve()
    words = [args.binary.resolve(), cache, *more]
    words += [f"--{flag}" for flag in FLAGS if getattr(args, flag)]
    words += [word for part in args.only for word in ("--only", part)]
    words += ["--work", args.work.resolve()] if args.work else []
    words += ["--table", args.table.resolve()] if args.table else []
    try:
        python = environment(cache)
    except Missing as missing:
        print(f"nothing was checked: {missing}")
        sys.exit(0 if args.or_skip else 1)
    sys.exit(run_module(python, "proof", *words).returncode)


def told():
    """The parser of what :func:`go_on` tells the module `proof`."""
    about = argparse.ArgumentParser()
    about.add_argument("binary", type=Path)
    about.add_argument("cache", type=Path)
    for flag in FLAGS:
        about.add_argument(f"--{flag}", action="store_true")
    about.add_argument("--only", action="append", default=[])
    about.add_argument("--work", type=Path)
    about.add_argument("--table", type=Path)
    return about


@contextmanager
def folder_for_work(args, prefix):
    """The folder for the models, which goes unless it was named."""
    work = args.work or Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield work
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)


def end(args, report, environments, begun, write):
    """Writes what is wanted, says what was missed, and ends the program."""
    if args.table:
        args.table.write_text(report.table() + "\n", encoding="utf-8")
    if args.write:
        write(report)
    held, missed, skipped = report.counts()
    if args.json:
        print(report.json())
    else:
        for line in report.missed:
            print(f"MISSED {line['part']}: {line['what']}: {number(line['measured'])} {line.get('note', '')}")
        seconds = time.monotonic() - begun - environments.spent
        print(f"{held} hold, {missed} missed, {skipped} not checked; {seconds:.0f} s, and {environments.spent:.0f} s to make environments")
    sys.exit(1 if missed or not held else 0)
