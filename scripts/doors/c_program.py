"""The C file: compiled by gcc and clang as C99 with every warning, with sanitizers, and run for a thousand tokens."""

import re
import shutil
import subprocess

from .shapes import SHAPES

TOKENS = 1000
KB = 1024
FLAGS = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]


def check(exports, names):
    compilers = [name for name in ("gcc", "clang") if shutil.which(name)]
    if not compilers:
        exports.report.skip("c", "all", "neither gcc nor clang is installed")
        return
    for name in names:
        trained = exports.train(name, SHAPES[name])
        folder = exports.export(trained, "c", "any")
        if folder is not None:
            of_folder(exports, trained, folder, compilers)


def of_folder(exports, trained, folder, compilers):
    """The text of every build must be kinglet's."""
    report, name = exports.report, trained.name
    written = exports.kinglet("sample", trained.run, "--prompt", trained.prompt, "--tokens", TOKENS, "--temperature", 0)[-1]
    wanted = trained.prompt + written["text"]
    sources = sorted(str(file) for file in folder.glob("*.c"))
    builds = [(compiler, []) for compiler in compilers]
    builds += [(compiler, ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1"]) for compiler in compilers]
    for compiler, extra in builds:
        what = f"{name} by {compiler}{' with sanitizers' if extra else ''}"
        program = folder / f"{compiler}{'-checked' if extra else ''}"
        done = subprocess.run([compiler, *FLAGS, *extra, *sources, "-o", program, "-lm"], capture_output=True, text=True)
        if done.returncode:
            report.failed("c", f"{what}: compiles", done.stderr[:600])
            continue
        done = subprocess.run([program, trained.prompt, str(TOKENS)], capture_output=True, text=True, timeout=300)
        if done.returncode:
            report.failed("c", f"{what}: runs", done.stderr[:600])
            continue
        got = done.stdout
        got = got if got.startswith(trained.prompt) else trained.prompt + got
        report.equal("c", f"{what}: text of {len(written['ids'])} tokens", got.removesuffix("\n"), wanted.removesuffix("\n"))
    no_allocation(report, name, sources)


def no_allocation(report, name, sources):
    used = [word for source in sources for word in re.findall(r"\b(?:malloc|calloc|realloc|free)\s*\(", open(source, encoding="utf-8").read())]
    report.equal("c", f"{name}: calls that allocate", used, [])
