"""Models in eight and four bits beside llama.cpp's Q8_0 and Q4_0 of the same weights: tokens per second of one text on one thread.

    cargo build --release --bin kinglet --example drawing_speed
    python3 scripts/few_bits.py [--rounds N] [--only big-2.7m,gpt2]

The weights are those of a run's first update: what a token costs does not depend on them. Both begin with an empty context and
write as many tokens as are given here. kinglet draws each and makes text of it; llama.cpp takes a token at a time, with keys and
values in f32, and hands out its logits. All programs stay in memory, and are measured in turn; figures are medians of the rounds.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from doors import llama_cpp

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "target/release/kinglet"

# The settings of each shape, and how many tokens are written. GPT-2's context is cut, so that llama.cpp and kinglet have the same.
SHAPES = {
    "big-0.2m": (["--preset", "big-0.2m"], 32),
    "big-2.7m": (["--preset", "big-2.7m"], 32),
    "gpt2": (["--preset", "gpt2", "--set", "block_size=64", "--set", "vocab_size=50257", "--set", "batch_size=1", "--set", "gradient_accumulation_steps=1"], 63),
}
SHORT = ["--set", "max_iters=1", "--set", "eval_iters=1", "--set", "sample_tokens=0", "--tokenizer", "byte"]
WHOLE = ["--head", "--embeddings"]


class Ours:
    """A run of this program, drawn from when it is asked."""

    def __init__(self, example, run, tokens):
        self.process = subprocess.Popen([example, run, str(tokens)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.communicate()


class Theirs:
    """A GGUF in llama.cpp."""

    def __init__(self, path, tokens):
        self.model, self.tokens = llama_cpp.Model(path, n_ctx=tokens + 1, threads=1), tokens

    def measure(self, seconds=1.0):
        model, found, start = self.model, [], time.perf_counter()
        ids = [at % model.n_tokens for at in range(self.tokens)]
        while not found or time.perf_counter() - start < seconds:
            model.forget()
            began = time.perf_counter()
            for at, id in enumerate(ids):
                model.step(id, at)
            found.append(self.tokens / (time.perf_counter() - began))
        return statistics.median(found)

    def close(self):
        self.model.close()


def kinglet(program, *arguments):
    done = subprocess.run([program, *arguments, "--quiet"], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"kinglet {' '.join(map(str, arguments))}: {done.stderr}")


def models(program, example, folder, name):
    """Everything that is measured of a shape, by name."""
    settings, tokens = SHAPES[name]
    run = folder / name
    kinglet(program, "train", *settings, *SHORT, "--out", run)
    found = {"kinglet f32": Ours(example, run, tokens)}
    for scheme in ["w8", "w4"]:
        for what, more in [("", []), (", head too", WHOLE)]:
            out = folder / f"{name}-{scheme}{len(more)}"
            kinglet(program, "quantize", f"{run}@last", "--scheme", scheme, "--no-report", *more, "--out", out)
            found[f"kinglet {scheme}{what}"] = Ours(example, out, tokens)
    for dtype in ["f32", "q8_0", "q4_0"]:
        out = folder / f"{name}-{dtype}"
        # Weights that were hardly trained may differ more than the bound that is for files to keep.
        kinglet(program, "export", f"{run}@last", "--format", "gguf", "--dtype", dtype, "--out", out, "--max-difference", "1000")
        [path] = [out] if out.is_file() else out.glob("*.gguf")
        found[f"llama.cpp {dtype}"] = Theirs(path, tokens)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", type=Path, default=PROGRAM, help="kinglet, with examples/drawing_speed beside it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(SHAPES), help="shapes, separated by commas")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.only.split(","):
            found = models(program, program.parent / "examples/drawing_speed", Path(folder), name)
            speeds = {what: [] for what in found}
            for _ in range(arguments.rounds):
                for what, model in found.items():
                    speeds[what].append(model.measure())
            middle = {what: statistics.median(all) for what, all in speeds.items()}
            print(f"{name}: tokens/s of one text, one thread, from an empty context; medians of {arguments.rounds} rounds\n")
            print("| program | tokens/s | beside its f32 | beside llama.cpp's |\n|---|---|---|---|")
            for what, speed in middle.items():
                program_of, scheme = what.split(" ", 1)
                peer = {"w8": "q8_0", "w4": "q4_0", "f3": "f32"}.get(scheme[:2])
                beside = f"{speed / middle[f'llama.cpp {peer}']:.2f}" if program_of == "kinglet" else ""
                print(f"| {what} | {speed:.0f} | {speed / middle[f'{program_of} f32']:.2f} | {beside} |")
            print(flush=True)
            for model in found.values():
                model.close()


if __name__ == "__main__":
    main()
