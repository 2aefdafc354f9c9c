#!/usr/bin/env python3
"""Executes the notebooks of examples/, every cell, with fewer steps.

    env/bin/python scripts/notebooks.py                        # an environment with kinglet, nbclient and ipykernel
    env/bin/python scripts/notebooks.py examples/lecture.ipynb --save    # a copy with the outputs, in target/notebooks

Each runs in a copy of its own folder, so nothing is written beside it, and finds the repository's files where it expects them. The work is
made shorter by a cell before the first (scripts/shorter.py), which is not in the notebook. `--full` leaves it out.

A notebook in the repository has no outputs, and is small.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 600
LARGEST = 40_000


def stored(path):
    """What is wrong with the file of a notebook."""
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    cells = [cell for cell in content.cells if cell.cell_type == "code"]
    if any(cell.outputs or cell.execution_count for cell in cells):
        yield "it has outputs: clear them before it is committed"
    if path.stat().st_size > LARGEST:
        yield f"it is larger than {LARGEST} bytes"
    if not cells or content.cells[0].cell_type != "markdown":
        yield "it does not begin with words, or has no code"


def execute(path, full):
    """Runs a notebook in a folder that looks like the repository, and returns it with its outputs."""
    content = nbformat.read(path, as_version=4)
    first = f"import runpy\nrunpy.run_path({str(ROOT / 'scripts' / 'shorter.py')!r})['shorten']()"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "examples"
        folder.mkdir()
        (Path(scratch) / "tests").symlink_to(ROOT / "tests")
        if not full:
            content.cells.insert(0, nbformat.v4.new_code_cell(first))
        where = {"metadata": {"path": folder}}
        # A kernel warns of talking to others of this machine unencrypted.
        quiet = ["--IPKernelApp.log_level=40"]
        try:
            NotebookClient(content, timeout=LIMIT_S, kernel_name="python3", resources=where, extra_arguments=quiet).execute()
        finally:
            if not full:
                del content.cells[0]
    return content


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="which [all of examples/]")
    parser.add_argument("--full", action="store_true", help="with all steps, as a reader runs them")
    parser.add_argument("--save", action="store_true", help="keep copies with outputs in target/notebooks")
    args = parser.parse_args()
    wrong = []
    # The kernel is this interpreter, whatever other environments have.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    notebooks = args.notebooks or sorted((ROOT / "examples").glob("*.ipynb"))
    for path in notebooks:
        began = time.monotonic()
        wrong += [f"{path.name}: {what}" for what in stored(path)]
        try:
            content = execute(path, args.full)
        except CellExecutionError as error:
            wrong.append(f"{path.name}: {error}")
            continue
        code = [cell for cell in content.cells if cell.cell_type == "code"]
        print(f"{path.name}: {len(code)} cells in {time.monotonic() - began:.1f} s", flush=True)
        if args.save:
            target = ROOT / "target" / "notebooks" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(content, target)
    for what in wrong:
        print(f"\n{what}", file=sys.stderr)
    print(f"\n{len(notebooks)} notebooks, {len(wrong)} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
