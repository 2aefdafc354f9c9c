"""A Python with the packages that a comparison needs, made once."""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(name, *packages):
    """The interpreter of an environment in target/name."""
    folder = ROOT / "target" / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making a Python environment with {' and '.join(packages)} in target/{name}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / "ready").touch()
    return python
