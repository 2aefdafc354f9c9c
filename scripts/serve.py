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

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.remove(str(Path(__file__).resolve().parent))

from scripts import proving  # noqa: E402
from scripts.serve.environments import Environments, run_module  # noqa: E402

NAME = "kinglet-serve"
HELPS = {
    "binary": "the program; its example `serve_load` is looked for in examples/ beside it",
    "light": "only what takes little time",
    "heavy": "more of each, and what takes long; not the speeds",
    "only": "only this part",
}


def main():
    about = proving.options(__doc__, NAME, "docs/SERVING.md", HELPS)
    about.add_argument("--minutes", type=float, default=1, help="how long faults go on [default: 1]")
    about.add_argument("--shots", type=Path, help="folder for screenshots of the pages")
    args = about.parse_args()
    more = ["--minutes", args.minutes, *(["--shots", args.shots.resolve()] if args.shots else [])]
    proving.go_on(args, NAME, lambda cache: Environments(cache).clients(), run_module, more)


if __name__ == "__main__":
    main()
