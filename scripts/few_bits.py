"""Models in eight and four bits beside llama.cpp's Q8_0 and Q4_0: tokens per second, one text, one thread, in turn.

    python3 scripts/few_bits.py [KINGLET] [--rounds N] [--only big-2.7m,gpt2]

Random weights of each shape: what a token costs does not depend on them. Both write into an empty context, as many tokens as
`positions` says: llama.cpp a token at a time with keys and values in f32, after which it copies the logits; kinglet draws each
token besides. Figures are medians over the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from doors import llama_cpp  # noqa: E402

# Settings of each shape, positions that are measured, and whether the head is rounded too, as llama.cpp's files of it have it.
SHAPES = {
    "big-0.2m": (["preset=big-0.2m"], 32),
    "big-2.7m": (["preset=big-2.7m"], 32),
    "gpt2": (["preset=gpt2", "block_size=64", "vocab_size=50257", "batch_size=1", "gradient_accumulation_steps=1"], 64),
}
HEAD = ["quantize_head=true", "quantize_embeddings=true"]


def ours(program, name, settings):
    """Tokens per second of one text with this program."""
    preset, *rest = SHAPES[name][0]
    command = [program, "bench", "--preset", preset.removeprefix("preset="), "--threads", "1", "--streams", "1", "--json", "--draw-only"]
    for setting in rest + settings:
        command += ["--set", setting]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["sample"]["first_block_tokens_per_s"]


def theirs(path, positions, seconds=2.0):
    """The same with llama.cpp."""
    model = llama_cpp.Model(path, n_ctx=positions, threads=1)
    best, ends = [], time.perf_counter() + seconds
    while time.perf_counter() < ends or not best:
        model.forget()
        start = time.perf_counter()
        for at in range(positions):
            model.feed([at % model.n_tokens], at)
        best.append(positions / (time.perf_counter() - start))
    model.close()
    return statistics.median(best)
