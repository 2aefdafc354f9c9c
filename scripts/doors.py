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

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.remove(str(Path(__file__).resolve().parent))

from scripts import proving  # noqa: E402
from scripts.doors.environments import Environments, run_module  # noqa: E402

NAME = "kinglet-doors"
HELPS = {
    "binary": "the program; its example `logits` is looked for in examples/ beside it",
    "light": "only what needs neither PyTorch nor much time",
    "heavy": "only the rest",
    "only": "only this part, or cases whose name has this",
}


def main():
    args = proving.options(__doc__, NAME, "docs/INTEROP.md", HELPS).parse_args()
    proving.go_on(args, NAME, lambda cache: Environments(cache).light(), run_module)


if __name__ == "__main__":
    main()
