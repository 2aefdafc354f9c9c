#!/usr/bin/env python3
"""Runs every command of the README and of docs/, as it is written, in the order in which it is written.

    cargo build --release
    python3 scripts/docs.py target/release/kinglet
    python3 scripts/docs.py target/release/kinglet docs/guides/runs.md    # these pages only

Each page runs in a fresh folder; then all pages run one after the other in one folder, as a reader would do it who keeps
what the pages before have made. Commands are those of the blocks marked `sh`; standard input is empty. A comment before a
block changes what is done with it:

    <!-- not run: REASON -->   it is listed with the reason instead; for what takes an hour, a network or other programs
    <!-- fails -->             its last command must fail
    <!-- shows -->             its output must contain the lines of the block that follows; "..." stands for any lines

The same lines are compared after `fails`, so an error message in the documents is the one that the program prints.

`kinglet` is a wrapper which makes the work shorter, without changing what is asked for: steps are divided by 500, also in
RUN@STEP and --checkpoint STEP; estimates are of two batches; budgets, measurements and reproductions are the shortest
there are; `rm` and `prune` get --yes, as nobody can be asked. Texts that a page takes for granted (my.txt and others) are
made beforehand. Tiny Shakespeare is not downloaded: without KINGLET_DATA_DIR, commands that need it are left out.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHORTER = 500
MARK = re.compile(r"<!--\s*(not run|fails|shows)\s*(?::\s*(.*?))?\s*-->", re.DOTALL)
HERE = re.compile(r"<<-?\s*['\"]?(\w+)")
LINK = re.compile(r"\]\(([^)#:]+\.md)")


# ---- what a page says

class Block:
    """A block of commands: what is done with it, where it is, and the lines that it must print."""

    def __init__(self, mark, reason, line, lines):
        self.mark, self.reason, self.line, self.lines, self.shown = mark, reason, line, lines, None


def blocks(text):
    """The blocks of commands of a page, each with the text block behind it where that is compared."""
    found, mark, inside = [], (None, None), None
    for number, line in enumerate(text.splitlines(), 1):
        if inside is not None:
            if line.rstrip() == "```":
                kind, start, lines = inside
                if kind == "sh":
                    found.append(Block(*mark, start, lines))
                    mark = (None, None)
                elif kind in ("text", "toml", "json") and found and found[-1].mark in ("fails", "shows"):
                    # The first one behind the block is what it prints.
                    found[-1].shown = found[-1].shown or lines
                inside = None
            else:
                inside[2].append(line)
        elif line.startswith("```"):
            inside = (line[3:].strip(), number, [])
        elif said := MARK.search(line):
            mark = said.groups()
    return found


def commands(lines):
    """The commands of a block: lines belong together until the shell finds a command whole."""
    command = []
    for line in lines:
        command.append(line)
        text = "\n".join(command)
        if line.endswith("\\") or not text.strip() or text.strip().startswith("#"):
            command = command if line.endswith("\\") else []
            continue
        # Older shells do not complain about a text that is never ended.
        is_open = any(end not in command[1:] for end in HERE.findall(text))
        check = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        if check.returncode == 0 and not is_open:
            yield text
            command = []
    if command:
        yield "\n".join(command)


def pages():
    """The README, then what the index of the documents links to, in its order, then the rest."""
    index = ROOT / "docs" / "README.md"
    linked = [(index.parent / name).resolve() for name in LINK.findall(index.read_text())]
    every = [ROOT / "README.md", index, *linked, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
    return [page for page in dict.fromkeys(every) if page.exists()]


# ---- how a command is made shorter

def shorter(args):
    """The arguments of kinglet, with less work."""
    if "--help" in args or "-h" in args or not args:
        return args
    args = [re.sub(r"@(\d+)$", lambda step: f"@{steps(step[1])}", arg) for arg in args]
    for i, arg in enumerate(args[:-1]):
        if arg == "--checkpoint" and args[i + 1].isdigit():
            args[i + 1] = str(steps(args[i + 1]))
        if arg == "--set":
            key, _, value = args[i + 1].partition("=")
            if key in ("max_iters", "eval_interval", "warmup_iters", "lr_decay_iters") and value.isdigit():
                args[i + 1] = f"{key}={steps(value)}"
    command = next((arg for arg in args if not arg.startswith("-")), "")
    given = {arg.partition("=")[0] for option, arg in zip(args, args[1:]) if option == "--set"}

    def put(key, value):
        if key not in given:
            args.extend(["--set", f"{key}={value}"])

    if command in ("train", "finetune"):
        resumes = "--resume" in args
        # What 5000 steps of a training and 1000 of a fine-tuning, the usual numbers, come to.
        iters = 10 if command == "train" else 2
        for key, value in dict(max_iters=iters, eval_interval=1, eval_iters=2, log_interval=1).items():
            # A run goes on to where it was to end, unless told otherwise.
            if not (resumes and key == "max_iters"):
                put(key, value)
    if command == "tune":
        replace(args, "--budget", "60s")
        replace(args, "--trials", "3")
        if "--resume" not in args:
            put("max_iters", 20)
    if command == "sweep" and "--resume" not in args:
        given |= {arg.partition("=")[0] for option, arg in zip(args, args[1:]) if option == "--grid"}
        for key, value in dict(max_iters=10, eval_interval=5, eval_iters=2).items():
            put(key, value)
    if command in ("plan", "bench"):
        replace(args, "--seconds", "0")
    if command == "bench" and "--profile" not in args and "--quick" not in args:
        args.append("--quick")
    if command == "reproduce":
        args.extend(option for option in ("--quick",) if option not in args)
        if "--preset" not in args:
            args.extend(["--preset", "big-0.2m"])
        replace(args, "--seeds", "1")
    if command in ("rm", "prune") and not {"-y", "--yes"} & set(args):
        args.append("--yes")
    return args


def steps(number):
    return max(1, int(number) // SHORTER)


def replace(args, option, value):
    """Gives an option another value, wherever it stands."""
    if option in args:
        args[args.index(option) + 1] = value
    else:
        args.extend([option, value])


def wrapper(kinglet, folder):
    """A `kinglet` in the folder, that is this script with the arguments of the command."""
    path = folder / "kinglet"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" --in-place-of "{kinglet}" "$@"\n')
    path.chmod(0o755)


# ---- what a page presumes

def prepare(folder):
    """The texts that the documents begin with: any text of the reader's."""
    prose = "".join((ROOT / name).read_text() for name in ("README.md", "docs/DESIGN.md", "CONTRIBUTING.md"))
    (folder / "my.txt").write_text(prose)
    (folder / "other.txt").write_text((ROOT / "docs" / "RESULTS.md").read_text())
    books = folder / "books"
    books.mkdir()
    for name in ("RELIABILITY.md", "RECIPES.md"):
        shutil.copy(ROOT / "docs" / name, books / name.replace(".md", ".txt"))


# ---- running

class Tour:
    """Commands as they run: what was counted, what was left out, what was wrong."""

    def __init__(self, bin_folder):
        cache = bin_folder / "home"
        cache.mkdir()
        self.environment = os.environ | {
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            "KINGLET_NO_HISTORY": "1",
            "XDG_DATA_HOME": str(cache),
        }
        self.count, self.left_out, self.wrong = 0, {}, []

    def page(self, page, folder):
        name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name
        for block in blocks(page.read_text()):
            place = f"{name}, line {block.line + 1}"
            if block.mark == "not run":
                self.left_out[place] = block.reason
                continue
            every = list(commands(block.lines))
            for i, command in enumerate(every):
                is_last = i + 1 == len(every)
                if "tinyshakespeare" in command + " ".join(every) or "reproduce" in command:
                    if "KINGLET_DATA_DIR" not in os.environ:
                        self.left_out[place] = "needs Tiny Shakespeare: set KINGLET_DATA_DIR"
                        continue
                self.command(command, place, folder, block, is_last)

    def command(self, command, place, folder, block, is_last):
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=300,
        )
        self.count += 1
        output = done.stdout + done.stderr
        should_fail = block.mark == "fails" and is_last
        status = f"exit status {done.returncode}" if done.returncode else ""
        print(f"  {time.monotonic() - began:5.1f} s  {command.splitlines()[0]}  {status}".rstrip(), flush=True)
        why = None
        if (done.returncode != 0) != should_fail:
            why = f"exit status {done.returncode}" + (", and it was to fail" if should_fail else "")
        elif is_last and block.shown and (line := missing(block.shown, output)):
            why = f"its output has no line {line!r}"
        if why:
            self.wrong.append(f"{place}: {command}\n{why}\n{tail(output)}")
            print(f"    WRONG: {why}")


def missing(shown, output):
    """The first shown line that the output does not have, in the order of the page."""
    lines = iter([line.strip() for line in output.splitlines()])
    for want in (line.strip() for line in shown):
        if want and want != "..." and not any(want == line for line in lines):
            return want
    return None


def tail(output):
    lines = output.strip().splitlines()
    return "".join(f"    {line[:300]}\n" for line in lines[-25:])


# ---- does it notice?

WRONG = """
```sh
exit 3
```

<!-- fails -->
```sh
true
```

<!-- shows -->
```sh
printf 'one\\ntwo\\n'
```

```text
one
three
```
"""
RIGHT = """
```sh
cat > two-lines.txt <<'END'
one   # a command of three lines
END
test -s my.txt && kinglet --version \\
  > version.txt
```

<!-- fails -->
```sh
echo "error: no"; false
```

```text
error: no
```

<!-- not run: it would take an hour -->
```sh
exit 3
```
"""


def self_test():
    """Runs pages of which is known what is wrong in them."""
    assert list(commands(["a \\", "  b", "# no", "c <<'E'", "x", "E", "for i in 1; do", "d; done"])) == [
        "a \\\n  b", "c <<'E'\nx\nE", "for i in 1; do\nd; done"]
    assert shorter(["train", "a", "--set", "max_iters=1500"])[:4] == ["train", "a", "--set", "max_iters=3"]
    assert shorter(["sample", "a@3000"]) == ["sample", "a@6"]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for text, wrong, left_out in ((WRONG, 3, 0), (RIGHT, 0, 1)):
            page = scratch / "page.md"
            page.write_text(text)
            tour = tours(Path(shutil.which("true")), [[page]])
            assert (len(tour.wrong), len(tour.left_out)) == (wrong, left_out), (tour.wrong, tour.left_out)
    print("the runner notices what it is to notice")


# ---- the program

def tours(kinglet, rounds):
    """Runs lists of pages, each list in a folder of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "bin").mkdir()
        wrapper(kinglet, scratch / "bin")
        tour = Tour(scratch / "bin")
        for i, together in enumerate(rounds):
            folder = scratch / f"reader-{i}"
            folder.mkdir()
            prepare(folder)
            for page in together:
                print(f"--- {os.path.relpath(page, ROOT)}" + (", after the pages before it" if len(together) > 1 else ""))
                tour.page(page, folder)
            shutil.rmtree(folder)
    return tour


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinglet", type=Path, nargs="?", help="the program")
    parser.add_argument("pages", nargs="*", type=Path, help="the pages [all]")
    parser.add_argument("--apart", action="store_true", help="only each page in its own folder, not all in one")
    parser.add_argument("--self-test", action="store_true", help="check that this script notices what is wrong in a page")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    if not args.kinglet:
        parser.error("name the program, such as target/release/kinglet")
    every = [page.resolve() for page in args.pages] or pages()
    began = time.monotonic()
    rounds = [[page] for page in every]
    if len(every) > 1 and not args.apart:
        rounds.append(every)
    tour = tours(args.kinglet.resolve(strict=True), rounds)
    if tour.left_out:
        print("\nnot run:")
        for place, reason in tour.left_out.items():
            print(f"  {place}: {reason}")
    print(f"\n{tour.count} commands of {len(every)} pages in {time.monotonic() - began:.0f} s, {len(tour.wrong)} wrong", flush=True)
    for report in tour.wrong:
        print(f"\n{report}", file=sys.stderr)
    sys.exit(1 if tour.wrong else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-place-of"]:
        program, *rest = sys.argv[2:]
        os.execv(program, [program, *shorter(rest)])
    main()
