#!/usr/bin/env python3
"""Packs the program for a release: with its manual pages, its completions, the licences and the README.

    cargo build --profile dist --locked
    python3 scripts/archive.py target/dist --target x86_64-unknown-linux-gnu --out archives

It writes `kinglet-VERSION-TARGET.tgz` (for Windows, `.zip`), in which everything is in a folder of that name, and the SHA-256 beside it.
`[package.metadata.binstall]` of Cargo.toml says the same names to `cargo binstall`. The same program makes the same archive, byte for byte.
"""

import argparse
import gzip
import hashlib
import io
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHELLS = {"bash": "kinglet.bash", "zsh": "_kinglet", "fish": "kinglet.fish", "powershell": "_kinglet.ps1"}
#: The time of all files in an archive: what a zip file begins to count at.
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def content(program):
    """The files of an archive: name, bytes, and whether it is a program."""
    yield program.name, program.read_bytes(), True
    for name in ("README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"):
        yield name, (ROOT / name).read_bytes(), False
    for shell, name in SHELLS.items():
        printed = subprocess.run([program, "completions", shell], check=True, capture_output=True).stdout
        yield f"completions/{name}", printed, False
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([program, "man", scratch], check=True, capture_output=True)
        for page in sorted(Path(scratch).iterdir()):
            yield f"man/{page.name}", page.read_bytes(), False


def tgz(path, folder, files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, data, is_program in files:
            about = tarfile.TarInfo(f"{folder}/{name}")
            about.size, about.mode = len(data), 0o755 if is_program else 0o644
            tar.addfile(about, io.BytesIO(data))
    path.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


def zipped(path, folder, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, _ in files:
            archive.writestr(zipfile.ZipInfo(f"{folder}/{name}", LONG_AGO), data, zipfile.ZIP_DEFLATED)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("built", type=Path, help="the folder with the program")
    parser.add_argument("--target", required=True, help="what it was built for")
    parser.add_argument("--out", type=Path, required=True, help="where the archive goes")
    args = parser.parse_args()
    is_windows = "windows" in args.target
    program = (args.built / ("kinglet.exe" if is_windows else "kinglet")).resolve(strict=True)
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    folder = f"kinglet-{version}-{args.target}"
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"{folder}{'.zip' if is_windows else '.tgz'}"
    files = list(content(program))
    (zipped if is_windows else tgz)(path, folder, files)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    print(f"{path}: {len(files)} files, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
