#!/usr/bin/env python3
"""Proves that a run has the same bits on any number of ranks, and what its ranks promise: the tables of docs/CLUSTER.md.

    cargo build --release --bin kinglet
    python3 scripts/cluster.py target/release/kinglet --light      # what .ci/run does: bits, with each MPI; two minutes
    python3 scripts/cluster.py target/release/kinglet --network    # machines on links of 100 Mbit/s and 1 Gbit/s; needs root
    python3 scripts/cluster.py target/release/kinglet --failure    # killed ranks, links that fail, signals; needs root
    python3 scripts/cluster.py target/release/kinglet --sweep      # many small runs, one rank killed; throughput

Without a part, it proves all of them. It uses Debian's Open MPI and MPICH, which it installs where it may, and those of PyPI, with
pinned versions, in the folder --cache. The machines of --network are network namespaces with links whose rate is limited. Times are
right only on a machine that does nothing else.

Each line of the answer is what was measured beside what must hold. The exit status is 1 if anything missed. --json prints one
object, --table the lines as Markdown.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.remove(str(Path(__file__).resolve().parent))

from scripts.cluster import proof  # noqa: E402


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("binary", type=Path, help="the program")
    about.add_argument("--light", action="store_true", help="only bits, with the MPIs of Debian and MPICH of PyPI")
    for part in proof.PARTS:
        about.add_argument(f"--{part}", action="store_true", help=f"only this part, or the parts that are named")
    about.add_argument("--mpi", action="append", default=[], metavar="NAME", help="only MPIs whose name has this; may be repeated")
    about.add_argument("--ranks", type=int, action="append", default=[], metavar="R", help="network: only so many ranks; may be repeated")
    about.add_argument("--rate", type=int, action="append", default=[], metavar="MBIT", help="network: only this rate; may be repeated")
    about.add_argument("--kills", type=int, default=30, help="failure: how many ranks are killed [default: 30]")
    about.add_argument("--random", type=int, default=1, metavar="SEED", help="failure: seed of when and whom [default: 1]")
    about.add_argument("--cache", type=Path, help="folder of the environments [default: kinglet-cluster in the user's cache]")
    about.add_argument("--work", type=Path, help="folder for the runs, which is kept [default: a temporary one]")
    about.add_argument("--or-skip", action="store_true", help="say it and succeed where there is no MPI and none can be installed")
    about.add_argument("--json", action="store_true", help="print one JSON object")
    about.add_argument("--table", type=Path, metavar="FILE", help="also write the lines as Markdown")
    about.add_argument("--write", action="store_true", help="also write the measured tables into docs/CLUSTER.md")
    args = about.parse_args()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = (args.cache or base / "kinglet-cluster").resolve()
    named = [part for part in proof.PARTS if getattr(args, part)]
    proof.prove(args, named or (["bits"] if args.light else list(proof.PARTS)), cache)


if __name__ == "__main__":
    main()
