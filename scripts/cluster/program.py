"""kinglet, alone and under a launcher, and what a run has that may not depend on the number of ranks."""

import hashlib
import json
import os
import subprocess

from .processes import Started, run

# What depends on the clock, the machine or the place, in lines of the metrics and in a checkpoint's progress.
TIMES = {"train_s", "wall_s", "ms_per_step", "tokens_per_s", "peak_memory_mib", "out", "check"}
# A launcher of the session that runs this script is none of its business.
LAUNCHERS = ("OMPI_", "PMI", "PRTE_", "SLURM_", "MPI", "KINGLET_MPI", "KINGLET_RANK", "HYDRA_")


class Kinglet:
    def __init__(self, binary):
        self.binary = binary
        if not binary.exists():
            raise SystemExit(f"{binary} is not there: cargo build --release --bin kinglet")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}

    def offers(self, command, option=""):
        """Whether there is such a command, and such an option of it."""
        done = subprocess.run([self.binary, command, "--help"], capture_output=True, text=True)
        return done.returncode == 0 and option in done.stdout

    def alone(self, *words, env=None, seconds=120):
        return run([self.binary, *words], self.environment | (env or {}), seconds)

    def start(self, mpi, ranks, *words, options=(), env=None, cwd=None):
        """Starts ranks on this machine."""
        environment = self.environment | mpi.environment | (env or {})
        return Started(mpi.words(ranks, [self.binary, *words], options), environment, cwd)

    def ranks(self, mpi, ranks, *words, options=(), env=None, seconds=120):
        return self.start(mpi, ranks, *words, options=options, env=env).wait(seconds)


def settings(**values):
    """The words that set these keys."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value) if isinstance(value, (list, bool)) else value}")]


def bits(folder):
    """All of a run that must be the same on any number of ranks, by file: hashes of its bytes, or lines without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("SHA256SUMS", "lock", "loss.svg") or not path.is_file():
            continue
        if path.name == "metrics.jsonl":
            found[name] = [without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        elif path.name == "state.json":
            found[name] = without_times(json.loads(path.read_text(encoding="utf-8")))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def without_times(event):
    return {key: value for key, value in event.items() if key not in TIMES}


def first_difference(ours, theirs):
    """The first file in which two runs differ, and how; nothing if they do not."""
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(name), theirs.get(name)
        if a != b:
            if isinstance(a, list) and isinstance(b, list):
                lines = [(x, y) for x, y in zip(a, b) if x != y]
                a, b = lines[0] if lines else (f"{len(a)} lines", f"{len(b)} lines")
            return f"{name}: {a} instead of {b}"
    return ""


def litter(folder):
    """Files of a run that are neither its own nor a checkpoint's: what was being written when a process ended."""
    known = {"config.toml", "tokenizer.json", "metrics.jsonl", "loss.svg", "sample.txt", "last", "best", "tags", "lock", "SHA256SUMS",
             "model.safetensors", "adapter.safetensors", "optimizer.safetensors", "state.json"}  # fmt: skip
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in known]
    folders = [path for path in (folder / "checkpoints").glob("*") if not path.name[5:].isdigit()]
    return [str(path.relative_to(folder)) for path in files + folders]


def last_step(folder):
    """The step of the newest checkpoint, or 0."""
    # Others are what was being written when a process ended.
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*") if path.name[5:].isdigit()), default=0)
