#!/usr/bin/env python3
"""Runs every command and all Python code of the README and of docs/, as it is written, in the order in which it is written.

    cargo build --release
    python3 scripts/docs.py target/release/kinglet
    python3 scripts/docs.py target/release/kinglet --python env/bin/python    # one that has the module kinglet
    python3 scripts/docs.py target/release/kinglet docs/guides/runs.md        # these pages only

Each page runs in a fresh folder; beside that, all pages run one after the other in one folder, as a reader would do it who keeps
what the pages before have made. Commands are those of the blocks marked `sh`; standard input is empty. Code is that of the blocks
marked `python`; one interpreter runs those of a page. A comment before a block changes what is done with it:

    <!-- not run: REASON -->    it is listed with the reason instead; for what takes an hour, a network or other programs
    <!-- needs: MODULE ... -->  so it is if the interpreter lacks one of these modules
    <!-- fails -->              its last command must fail, or the code must raise an exception
    <!-- shows -->              its output must contain the lines of the block that follows; "..." stands for any lines

The same lines are compared after `fails`, so an error message in the documents is the one that the program prints.

The work is made shorter, without changing what is asked for (scripts/shorter.py): steps are divided by 500, estimates are of two
batches, and so on. `kinglet` is a wrapper that does so; `rm` and `prune` get --yes, as nobody can be asked. Texts that a page takes
for granted (my.txt and others) are made beforehand. Tiny Shakespeare is not downloaded: without KINGLET_DATA_DIR, commands that need
it are left out.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shorter import words

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"<!--\s*(not run|needs|fails|shows)\s*(?::\s*(.*?))?\s*-->", re.DOTALL)
HERE = re.compile(r"<<-?\s*['\"]?(\w+)")
LINK = re.compile(r"\]\(([^)#:]+\.md)")


# ---- what a page says

class Block:
    """A block of commands or code: what is done with it, where it is, and the lines that it must print."""

    def __init__(self, kind, mark, reason, line, lines):
        self.kind, self.mark, self.reason, self.line, self.lines, self.shown = kind, mark, reason, line, lines, None


def blocks(text):
    """The blocks of commands and code of a page, each with the text block behind it where that is compared."""
    found, mark, inside = [], (None, None), None
    for number, line in enumerate(text.splitlines(), 1):
        if inside is not None:
            if line.rstrip() == "```":
                kind, start, lines = inside
                if kind in ("sh", "python"):
                    found.append(Block(kind, *mark, start, lines))
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
    others = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "crates" / "python" / "README.md"]
    every = [ROOT / "README.md", index, *linked, *others]
    return [page for page in dict.fromkeys(every) if page.exists()]


# ---- what runs a page

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

LIMIT_S = 300


class Session:
    """An interpreter that runs the code of a page."""

    def __init__(self, python, folder, environment):
        self.printed = Path(tempfile.mkstemp(dir=folder.parent)[1])
        script = Path(__file__).with_name("python_session.py")
        self.child = subprocess.Popen([python, script, self.printed], cwd=folder, env=environment, text=True, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE)

    def run(self, code, place):
        """Whether the code raised an exception, and what it printed."""
        began = self.printed.stat().st_size
        timer = threading.Timer(LIMIT_S, self.child.kill)
        timer.start()
        try:
            self.child.stdin.write(json.dumps({"code": code, "place": place}) + "\n")
            self.child.stdin.flush()
            answer = self.child.stdout.readline()
        except BrokenPipeError:
            answer = ""
        timer.cancel()
        output = self.printed.read_bytes()[began:].decode(errors="replace")
        if not answer:
            return True, f"{output}\nthe interpreter ended with {self.child.wait()}"
        return json.loads(answer)["raised"], output

    def end(self):
        self.child.stdin.close()
        self.child.wait(timeout=60)


class Tour:
    """Pages as they run in one folder: what was counted, what was left out, what was wrong."""

    def __init__(self, scratch, number, python):
        self.python = python
        self.folder, home = scratch / f"reader-{number}", scratch / f"home-{number}"
        self.folder.mkdir()
        home.mkdir()
        prepare(self.folder)
        self.environment = os.environ | {
            "PATH": f"{scratch / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            "KINGLET_NO_HISTORY": "1",
            "XDG_DATA_HOME": str(home),
        }
        self.count, self.left_out, self.wrong = 0, {}, []
        self.said = []

    def pages(self, together):
        for page in together:
            self.said = [f"--- {os.path.relpath(page, ROOT)}" + (", after the pages before it" if len(together) > 1 else "")]
            try:
                self.page(page, self.folder)
            finally:
                # At once, since other pages run at the same time.
                print("\n".join(self.said), flush=True)
        shutil.rmtree(self.folder)
        return self

    def page(self, page, folder):
        name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name
        session = None
        for block in blocks(page.read_text()):
            place = f"{name}, line {block.line + 1}"
            if block.mark == "not run":
                self.left_out[place] = block.reason
                continue
            if block.kind == "python":
                if self.can_run(block, place):
                    session = session or Session(self.python, folder, self.environment)
                    self.code(session, place, block)
                continue
            every = list(commands(block.lines))
            for i, command in enumerate(every):
                is_last = i + 1 == len(every)
                if "tinyshakespeare" in command + " ".join(every) or re.search("reproduce|speedrun", command):
                    if "KINGLET_DATA_DIR" not in os.environ:
                        self.left_out[place] = "needs Tiny Shakespeare: set KINGLET_DATA_DIR"
                        continue
                self.command(command, place, folder, block, is_last)
        if session:
            session.end()

    def can_run(self, block, place):
        """Whether there is an interpreter that has what the code needs."""
        if not self.python:
            self.left_out[place] = "Python code: --python names an interpreter that has the module kinglet"
            return False
        modules = block.reason.split() if block.mark == "needs" else []
        has = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"
        if modules and subprocess.run([self.python, "-c", has, *modules]).returncode:
            self.left_out[place] = f"needs {' and '.join(modules)}"
            return False
        return True

    def code(self, session, place, block):
        began = time.monotonic()
        code = "\n".join(block.lines)
        raised, output = session.run(code, place)
        self.count += 1
        first = next((line for line in block.lines if line and not line.startswith(("import", "from", "#"))), "")
        self.judge(code, first, "raised" if raised else "", raised, True, output, place, block, began)

    def command(self, command, place, folder, block, is_last):
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=self.environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=LIMIT_S,
        )
        self.count += 1
        status = f"exit status {done.returncode}" if done.returncode else ""
        output = done.stdout + done.stderr
        self.judge(command, command.splitlines()[0], status, done.returncode != 0, is_last, output, place, block, began)

    def judge(self, text, first, status, failed, is_last, output, place, block, began):
        """Prints what ran, and keeps what was wrong."""
        self.said.append(f"  {time.monotonic() - began:5.1f} s  {first}  {status}".rstrip())
        should_fail = block.mark == "fails" and is_last
        why = None
        if failed != should_fail:
            why = (status or "it did not fail") + (", and it was to fail" if should_fail else "")
        elif is_last and block.shown and (line := missing(block.shown, output)):
            why = f"its output has no line {line!r}"
        if why:
            self.wrong.append(f"{place}: {text}\n{why}\n{tail(output)}")
            self.said.append(f"    WRONG: {why}")


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

```python
1 / 0
```

<!-- fails -->
```python
print("fine")
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

```python
import os
text = open("two-lines.txt").read()
```

<!-- fails -->
```python
os.system("echo from a command")
raise ValueError(text.strip())
```

```text
from a command
ValueError: one   # a command of three lines
```

<!-- needs: a_module_that_is_not_there -->
```python
1 / 0
```
"""


def self_test():
    """Runs pages of which is known what is wrong in them."""
    assert list(commands(["a \\", "  b", "# no", "c <<'E'", "x", "E", "for i in 1; do", "d; done"])) == [
        "a \\\n  b", "c <<'E'\nx\nE", "for i in 1; do\nd; done"]
    assert words(["train", "a", "--set", "max_iters=1500"])[:4] == ["train", "a", "--set", "max_iters=3"]
    assert words(["sample", "a@3000"]) == ["sample", "a@6"]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for text, wrong, left_out in ((WRONG, 5, 0), (RIGHT, 0, 2)):
            page = scratch / "page.md"
            page.write_text(text)
            tour = tours(Path(shutil.which("true")), sys.executable, [[page]])
            assert (len(tour.wrong), len(tour.left_out)) == (wrong, left_out), (tour.wrong, tour.left_out)
    print("the runner notices what it is to notice")


# ---- the program

class Tours:
    """What all of them found."""

    def __init__(self, every):
        self.count = sum(tour.count for tour in every)
        self.left_out = {place: reason for tour in every for place, reason in tour.left_out.items()}
        self.wrong = [report for tour in every for report in tour.wrong]


def tours(kinglet, python, rounds):
    """Runs lists of pages, each list in a folder of its own, two at a time."""
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "bin").mkdir()
        wrapper(kinglet, scratch / "bin")
        with ThreadPoolExecutor(2) as pool:
            ran = [pool.submit(lambda i=i, r=r: Tour(scratch, i, python).pages(r)) for i, r in enumerate(rounds)]
            return Tours([each.result() for each in ran])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinglet", type=Path, nargs="?", help="the program")
    parser.add_argument("pages", nargs="*", type=Path, help="the pages [all]")
    parser.add_argument("--python", help="an interpreter that has the module kinglet [Python code is left out]")
    parser.add_argument("--only-python", action="store_true", help="only pages that have Python code")
    parser.add_argument("--apart", action="store_true", help="only each page in its own folder, not all in one")
    parser.add_argument("--self-test", action="store_true", help="check that this script notices what is wrong in a page")
    args = parser.parse_intermixed_args()
    if args.self_test:
        return self_test()
    if not args.kinglet:
        parser.error("name the program, such as target/release/kinglet")
    every = [page.resolve() for page in args.pages] or pages()
    if args.only_python:
        every = [page for page in every if any(block.kind == "python" for block in blocks(page.read_text()))]
    began = time.monotonic()
    rounds = [[page] for page in every]
    if len(every) > 1 and not args.apart:
        # The longest begins first.
        rounds.insert(0, every)
    # A path through a link is kept: an interpreter of an environment is one.
    python = args.python and Path(os.path.abspath(args.python))
    tour = tours(args.kinglet.resolve(strict=True), python, rounds)
    if tour.left_out:
        print("\nnot run:")
        for place, reason in tour.left_out.items():
            print(f"  {place}: {reason}")
    took = time.monotonic() - began
    print(f"\n{tour.count} commands and blocks of code of {len(every)} pages in {took:.0f} s, {len(tour.wrong)} wrong", flush=True)
    for report in tour.wrong:
        print(f"\n{report}", file=sys.stderr)
    sys.exit(1 if tour.wrong else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--in-place-of"]:
        program, *rest = sys.argv[2:]
        os.execv(program, [program, *words(rest)])
    main()
