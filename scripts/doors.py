#!/usr/bin/env python3
"""Proves that a model is the same on the other side of every door: the table of docs/INTEROP.md, with the real consumers.

    cargo build --release --bin kinglet --example logits
    python3 scripts/doors.py target/release/kinglet             # everything; 6 GB of environments, some ten minutes
    python3 scripts/doors.py target/release/kinglet --light     # llama.cpp and onnxruntime only; 100 MB, two minutes
    python3 scripts/doors.py target/release/kinglet --only import --only lecture    # a part, and cases of it

It makes its own environments, with pinned versions, in the folder --cache, once. It trains a small model of every shape with
this kinglet, exports each to every format, loads each there as people do, and compares ids, log-probabilities, and the text
over 200 tokens. PyTorch, transformers, PEFT and programs in C write files; kinglet imports them, and its logits and losses are
compared with PyTorch's. What must be refused has to be refused by the name of the setting.

Each line of the answer is what was measured beside what must hold. The exit status is 1 if anything missed. --json prints
one object, --table the lines as Markdown.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.remove(str(Path(__file__).resolve().parent))

from scripts.doors.environments import Environments, Missing, run_module  # noqa: E402


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("binary", type=Path, help="the program; its example `logits` is looked for in examples/ beside it")
    which = about.add_mutually_exclusive_group()
    which.add_argument("--light", action="store_true", help="only what needs neither PyTorch nor much time")
    which.add_argument("--heavy", action="store_true", help="only the rest")
    about.add_argument("--only", action="append", default=[], metavar="NAME", help="only this part, or cases whose name has this")
    about.add_argument("--cache", type=Path, help="folder of the environments [default: kinglet-doors in the user's cache]")
    about.add_argument("--work", type=Path, help="folder for the models, which is kept [default: a temporary one]")
    about.add_argument("--or-skip", action="store_true", help="say it and succeed where the packages cannot be had, as without a network")
    about.add_argument("--json", action="store_true", help="print one JSON object")
    about.add_argument("--table", type=Path, metavar="FILE", help="also write the lines as Markdown")
    about.add_argument("--write", action="store_true", help="also write the measured tables into docs/INTEROP.md")
    args = about.parse_args()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = (args.cache or base / "kinglet-doors").resolve()
    words = [args.binary.resolve(), cache]
    words += ["--light"] * args.light + ["--heavy"] * args.heavy + ["--json"] * args.json
    words += [word for name in args.only for word in ("--only", name)]
    words += ["--write"] * args.write
    words += ["--work", args.work.resolve()] if args.work else []
    words += ["--table", args.table.resolve()] if args.table else []
    try:
        python = Environments(cache).light()
    except Missing as missing:
        print(f"nothing was checked: {missing}")
        sys.exit(0 if args.or_skip else 1)
    sys.exit(run_module(python, "proof", *words).returncode)


if __name__ == "__main__":
    main()
