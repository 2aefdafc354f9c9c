"""A Python with the packages that a comparison needs, made once."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def interpreter(folder):
    """The interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environment(name, *packages):
    """The interpreter of an environment in target/name, made anew when other packages are asked for."""
    folder = ROOT / "target" / name
    python, ready = interpreter(folder), folder / "ready"
    wanted = "\n".join(packages)
    if not ready.exists() or ready.read_text() != wanted:
        print(f"making a Python environment with {' and '.join(packages)} in target/{name}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        ready.write_text(wanted)
    return python
