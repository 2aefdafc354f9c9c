"""The C file: compiled by gcc and clang as C99 with every warning, with sanitizers, and run for a thousand tokens."""

import shutil
import subprocess

from .exports import short

TOKENS = 1000
RAM = 40 * 1024
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
CHECKED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# What the state holds beside the cache.
SIZES = """#include <stdio.h>
#include "model.h"
int main(void) { kinglet *k = 0; printf("%zu", sizeof *k - sizeof k->keys - sizeof k->values); return 0; }
"""


def check(exports, models):
    compilers = [name for name in ("gcc", "clang") if shutil.which(name)]
    if not compilers:
        exports.report.skip("c", "all", "neither gcc nor clang is installed")
        return
    for missing in {"gcc", "clang"} - set(compilers):
        exports.report.skip("c", missing, "it is not installed")
    for trained in models:
        folder = exports.export(trained, "c", "any")
        if folder is not None:
            of_folder(exports, trained, folder, compilers)
    memory(exports, compilers[0])


def of_folder(exports, trained, folder, compilers):
    """The text of every build must be kinglet's."""
    report, name = exports.report, trained.name
    written = exports.kinglet("sample", trained.run, "--prompt", trained.prompt, "--tokens", TOKENS, "--temperature", 0)[-1]
    wanted = trained.prompt + written["text"] + "\n"
    for compiler in compilers:
        for kind, flags in (("", ["-O2"]), (" with sanitizers", CHECKED)):
            what, program = f"{name} by {compiler}{kind}", folder / "program"
            done = subprocess.run([compiler, *STRICT, *flags, "-DKINGLET_MAIN", folder / "model.c", "-o", program, "-lm"], capture_output=True, text=True)
            if done.returncode:
                report.failed("c", f"{what}: compiles", done.stderr[:600])
                continue
            words = [program, "--prompt", trained.prompt, "--tokens", str(TOKENS), "--temperature", "0"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=600)
            if done.returncode or done.stderr:
                report.failed("c", f"{what}: runs", done.stderr[:600])
            else:
                report.equal("c", f"{what}: text of {len(written['ids'])} tokens", done.stdout, wanted)


def memory(exports, compiler):
    """The 0.2M model beside its weights and its cache; and that nothing is allocated."""
    trained = short(exports)
    folder = exports.export(trained, "c", "any")
    if folder is None:
        return
    (folder / "sizes.c").write_text(SIZES)
    subprocess.run([compiler, folder / "sizes.c", "-o", folder / "sizes"], check=True)
    state = int(subprocess.run([folder / "sizes"], capture_output=True, text=True, check=True).stdout)
    subprocess.run([compiler, "-std=c99", "-O2", "-c", folder / "model.c", "-o", folder / "model.o"], check=True)
    sections = subprocess.run(["size", folder / "model.o"], capture_output=True, text=True, check=True).stdout.splitlines()[1].split()
    exports.report.most("c", "block of 32, 0.2M: bytes of RAM beside weights and cache", state + int(sections[1]) + int(sections[2]), RAM)
    wanted = subprocess.run(["nm", "-u", folder / "model.o"], capture_output=True, text=True, check=True).stdout.split()
    used = [symbol for symbol in wanted if symbol in ("malloc", "calloc", "realloc", "free", "alloca")]
    exports.report.equal("c", "block of 32: functions that allocate", used, [])
