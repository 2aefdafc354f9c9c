#!/usr/bin/env python3
"""Serves models to the programs that people have, and measures it: the tables of docs/SERVING.md.

    cargo build --release --bin kinglet --example serve_load
    python3 scripts/serve.py target/release/kinglet --light              # what .ci/run does; 160 MB of environments
    python3 scripts/serve.py target/release/kinglet --heavy --minutes 10 # everything but the speeds; 1 GB of environments
    python3 scripts/serve.py target/release/kinglet --only load --write  # the speeds, on a machine that does nothing else

It makes its own environments, with pinned versions, in the folder --cache, once. It trains small models, serves them with this
kinglet, and asks for texts with OpenAI's clients, Prometheus's checker, schemathesis, an evaluation harness, and bare sockets.

Each line of the answer is what was measured beside what must hold. The exit status is 1 if anything missed. --json prints
one object, --table the lines as Markdown.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.remove(str(Path(__file__).resolve().parent))

from scripts.serve.environments import Environments, Missing, run_module  # noqa: E402


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("binary", type=Path, help="the program; its example `serve_load` is looked for in examples/ beside it")
    which = about.add_mutually_exclusive_group()
    which.add_argument("--light", action="store_true", help="only what takes little time")
    which.add_argument("--heavy", action="store_true", help="more of each, and what takes long; not the speeds")
    about.add_argument("--only", action="append", default=[], metavar="NAME", help="only this part")
    about.add_argument("--minutes", type=float, default=1, help="how long faults go on [default: 1]")
    about.add_argument("--cache", type=Path, help="folder of the environments [default: kinglet-serve in the user's cache]")
    about.add_argument("--work", type=Path, help="folder for the models, which is kept [default: a temporary one]")
    about.add_argument("--or-skip", action="store_true", help="say it and succeed where the packages cannot be had, as without a network")
    about.add_argument("--json", action="store_true", help="print one JSON object")
    about.add_argument("--table", type=Path, metavar="FILE", help="also write the lines as Markdown")
    about.add_argument("--write", action="store_true", help="also write the measured tables into docs/SERVING.md")
    args = about.parse_args()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = (args.cache or base / "kinglet-serve").resolve()
    words = [args.binary.resolve(), cache, "--minutes", args.minutes]
    words += [f"--{name}" for name in ("light", "heavy", "json", "write") if getattr(args, name)]
    words += [word for name in args.only for word in ("--only", name)]
    words += ["--work", args.work.resolve()] if args.work else []
    words += ["--table", args.table.resolve()] if args.table else []
    try:
        python = Environments(cache).clients()
    except Missing as missing:
        print(f"nothing was checked: {missing}")
        sys.exit(0 if args.or_skip else 1)
    sys.exit(run_module(python, "proof", *words).returncode)


if __name__ == "__main__":
    main()
