#!/usr/bin/env python3
"""Builds the Python wheel, and checks it as a user would find it.

    python3 scripts/wheel.py --light    # for this system only; it leaves an environment with the wheel in target/python-env
    python3 scripts/wheel.py            # for every Linux since glibc 2.17, by zig; with the checks of auditwheel and abi3audit
    python3 scripts/wheel.py --interpreter ~/.pyenv/versions/3.13.0/bin/python ...    # installed into these Pythons too

The wheel must be at most 12 MB, install into an empty environment, give the command `kinglet`, and import within 100 ms. Then the tests of
crates/python/tests run with it. pip, and the packages that pip finds, are all that is needed beside Rust.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

from environment import ROOT, environment, interpreter as of_environment

LARGEST_MB = 12
LONGEST_MS = 100
BUILDER = ["maturin==1.16.0"]
FULL = ["ziglang==0.17.1", "auditwheel==6.8.2", "abi3audit==0.0.26"]
# What the tests, the documents' code and the notebooks need. numpy and what builds on it are the newest that this Python has.
TESTING = ["pytest==9.2.0", "hypothesis==6.170.17", "mypy==2.4.1", "nbclient==0.11.0", "ipykernel==7.4.0"]
TESTING += ["numpy", "pandas", "polars", "pyarrow", "tokenizers"]
OLDEST = "manylinux_2_17"


def build(light):
    """The wheel."""
    python = environment("wheel-env", *BUILDER, *([] if light else FULL))
    out = ROOT / "target" / "wheels"
    for old in out.glob("kinglet*.whl"):
        old.unlink()
    words = [python, "-m", "maturin", "build", "--release", "--locked", "--out", out]
    if not light:
        words += ["--zig", "--compatibility", OLDEST]
    # ziglang is a package of this environment.
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(words, cwd=ROOT, check=True, env=os.environ | {"PATH": path})
    (wheel,) = out.glob("kinglet*.whl")
    size = wheel.stat().st_size / 1e6
    print(f"{wheel.name}: {size:.1f} MB")
    if size > LARGEST_MB:
        sys.exit(f"the wheel has more than {LARGEST_MB} MB")
    if not light:
        audit(python, wheel)
    return wheel


def audit(python, wheel):
    """What the wheel asks of the system, and of Python."""
    shown = subprocess.run([python, "-m", "auditwheel", "show", wheel], check=True, capture_output=True, text=True).stdout
    print(re.sub(r"\n{2,}", "\n", shown.strip()))
    if f'platform tag: "{OLDEST}' not in " ".join(shown.split()):
        sys.exit(f"auditwheel does not find {OLDEST}")
    subprocess.run([python.parent / "abi3audit", "--strict", "--report", wheel], check=True, stdout=subprocess.DEVNULL)
    print("abi3audit: nothing outside the stable interface")


def installed(name, interpreter, wheel, packages=()):
    """The interpreter of an environment with the wheel, which takes nothing else from this machine."""
    folder = ROOT / "target" / name
    if interpreter is None:
        venv.create(folder, with_pip=True, clear=True)
    else:
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
    python = of_environment(folder)
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel, *packages], check=True)
    return python


def looks_right(python):
    """The command and the module, where nothing else is."""
    answer = lambda *words: subprocess.run(words, check=True, capture_output=True, text=True, cwd="/").stdout.strip()
    version = answer(python.parent / "kinglet", "--version")
    code = "import time; began = time.perf_counter(); import kinglet; print(1e3 * (time.perf_counter() - began), kinglet.__version__)"
    took = []
    for _ in range(7):
        ms, number = answer(python, "-I", "-c", code).split()
        took.append(float(ms))
    ms = statistics.median(took[1:])
    print(f"{answer(python, '--version')}: {version}; import kinglet takes {ms:.0f} ms")
    if version != f"kinglet {number}":
        sys.exit(f"the command is {version}, the module {number}")
    if ms > LONGEST_MS:
        sys.exit(f"import takes more than {LONGEST_MS} ms")


def tests(python, *more):
    """The tests of the module."""
    began = time.monotonic()
    subprocess.run([python, "-m", "pytest", "-q", ROOT / "crates" / "python" / "tests", *more], check=True, cwd=ROOT)
    print(f"tests of the module: {time.monotonic() - began:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--light", action="store_true", help="without zig and the checks for other systems")
    parser.add_argument("--interpreter", nargs="*", default=[], help="more Pythons to install it into")
    parser.add_argument("--no-tests", action="store_true", help="leave the tests of the module out")
    args = parser.parse_args()
    wheel = build(args.light)
    looks_right(installed("wheel-empty", None, wheel))
    for i, interpreter in enumerate(args.interpreter):
        python = installed(f"wheel-other-{i}", interpreter, wheel, [] if args.no_tests else ["pytest", "hypothesis"])
        looks_right(python)
        if not args.no_tests:
            tests(python)
    python = installed("python-env", None, wheel, TESTING)
    if not args.no_tests:
        tests(python)


if __name__ == "__main__":
    main()
