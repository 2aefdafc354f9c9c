"""Writes tests/fixtures/gguf-blocks.bin: what PyPI's `gguf` makes of blocks of numbers. Fixtures are written once.

    python3 scripts/doors/blocks.py    # makes its own environment

The file has: how many blocks of 32 numbers, these numbers, and for each type the bytes that they are stored as and the numbers
that these bytes are read as.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TYPES = ["Q8_0", "Q4_0", "Q5_0"]


def blocks():
    import numpy as np

    rng = np.random.default_rng(1)
    normal = [rng.normal(0, scale, (10, 32)) for scale in (1, 0.02, 30)]
    # Halves, where rounding has a choice; equal magnitudes of both signs; one number among zeros; tiny and huge scales.
    halves = rng.integers(-16, 17, (8, 32)) / 2
    signs = rng.choice([-1.5, 1.5], (4, 32))
    single = np.eye(32)[:8] * np.array([[1], [-1], [1e-3], [-1e-3], [127], [-8], [15], [6e4]])
    tiny = rng.normal(0, 1, (8, 32)) * 10.0 ** np.arange(-9, -1)[:, None]
    ramp = np.arange(-16, 16)[None] * np.array([[1], [0.37]])
    rows = np.concatenate([*normal, halves, signs, single, tiny, ramp, np.zeros((2, 32))]).astype(np.float32)
    # Where the inverse of a scale is not finite, C says nothing of the result.
    scale = np.abs(rows).max(axis=1)
    return rows[(scale == 0) | (scale > 1e-30)]


def write(path):
    import gguf
    import numpy as np

    rows = blocks()
    parts = [np.uint32(len(rows)).tobytes(), rows.tobytes()]
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        stored = gguf.quants.quantize(rows, kind)
        parts += [stored.tobytes(), gguf.quants.dequantize(stored, kind).astype(np.float32).tobytes()]
    path.write_bytes(b"".join(parts))
    print(f"{path}: {len(rows)} blocks, gguf {__import__('importlib.metadata').metadata.version('gguf')}")


if __name__ == "__main__":
    if "--inside" in sys.argv:
        write(ROOT / "tests/fixtures/gguf-blocks.bin")
    else:
        sys.path.insert(0, str(ROOT / "scripts"))
        from environment import environment

        python = environment("gguf", "gguf==0.19.0")
        sys.exit(subprocess.run([python, __file__, "--inside"], check=False).returncode)
