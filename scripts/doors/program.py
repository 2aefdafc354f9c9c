"""kinglet itself: its commands, its logits, its text."""

import json
import os
import resource
import subprocess
import time
from pathlib import Path

import numpy as np

# Short trainings of small models with a context that 200 tokens fit into.
SMALL = {"max_iters": 150, "eval_interval": 150, "eval_iters": 2, "batch_size": 8, "block_size": 256, "n_layer": 2, "n_head": 4,
         "n_embd": 64, "learning_rate": 0.003, "seed": 7}  # fmt: skip


class Failed(Exception):
    """A command that did not succeed; what it said."""


class Kinglet:
    def __init__(self, binary, logits):
        self.binary, self.logits_binary = binary, logits
        for program in (binary, logits):
            if not program.exists():
                raise SystemExit(f"{program} is not there: cargo build --release --bin kinglet --example logits")
        self.commands = self.offers()

    def offers(self):
        """The names of its commands."""
        done = subprocess.run([self.binary, "--help"], capture_output=True, text=True)
        return {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.split()}

    def __call__(self, *args, cwd=None, stdin=None):
        """The JSON lines that a command prints."""
        return self.measured(*args, cwd=cwd, stdin=stdin)[0]

    def measured(self, *args, cwd=None, stdin=None):
        """The JSON lines that a command prints, its seconds, and the most memory it had, in bytes."""
        words = [str(self.binary), *map(str, args), "--json"]
        begun = time.monotonic()
        child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd)
        # One of the two pipes is read here, the other where it cannot fill up.
        out, err = child.communicate((stdin or "").encode())
        seconds = time.monotonic() - begun
        lines = [json.loads(line) for line in out.decode().removesuffix("\n").split("\n") if line.startswith("{")]
        if child.returncode:
            said = next((line["error"] for line in lines if line.get("error")), None)
            raise Failed(text_of(said) if said else err.decode(errors="replace").strip()[-800:])
        return lines, seconds, err.decode(errors="replace")

    def peak(self, *args):
        """The seconds and the most memory in bytes of a command, as the kernel counts it."""
        code = "import resource,subprocess,sys;p=subprocess.run(sys.argv[1:],capture_output=True,text=True);" \
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,p.returncode,p.stderr[-500:])"
        begun = time.monotonic()
        words = ["python3", "-c", code, str(self.binary), *map(str, args), "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        seconds = time.monotonic() - begun
        kilobytes, status, said = done.stdout.split(" ", 2)
        if status != "0":
            raise Failed(said)
        return seconds, int(kilobytes) * 1024

    def train(self, folder, data, tokenizer="char", preset=None, **settings):
        """A run of a small model with these settings."""
        args = ["train", str(data), "--out", str(folder), "-q"]
        args += ["--tokenizer", tokenizer] if preset is None or tokenizer != "char" else []
        args += ["--preset", preset] if preset else []
        for key, value in (SMALL | settings).items():
            args += ["--set", f"{key}={json.dumps(value) if isinstance(value, (list, bool)) else value}"]
        self(*args)
        return folder

    def logits(self, run, lists, *options):
        """The logits after each id of each list, in f32; with `--reference` of its f64."""
        words = [str(self.logits_binary), str(run), *options]
        done = subprocess.run(words, input=json.dumps(lists).encode(), capture_output=True)
        if done.returncode:
            raise Failed(done.stderr.decode(errors="replace").strip()[-500:])
        numbers = np.frombuffer(done.stdout, "<f4").astype(np.float64)
        rows = sum(map(len, lists))
        numbers = numbers.reshape(rows, -1)
        return np.split(numbers, np.cumsum([len(ids) for ids in lists])[:-1])

    def greedy(self, run, prompt, tokens):
        """The prompt and what the model continues it with, always by the likeliest token."""
        args = ["sample", run, "--prompt", prompt, "--tokens", tokens, "--temperature", 0, "-q"]
        done = subprocess.run([str(self.binary), *map(str, args)], capture_output=True, text=True)
        if done.returncode:
            raise Failed(done.stderr[-500:])
        return done.stdout.removesuffix("\n")

    def config(self, run):
        """The settings of a run."""
        import tomllib

        tables = tomllib.loads((Path(run) / "config.toml").read_text(encoding="utf-8"))
        flat = {}
        for key, value in tables.items():
            flat |= value if isinstance(value, dict) else {key: value}
        return flat

    def weights(self, run):
        """The tensors of a run's newest checkpoint as bytes, by name."""
        from safetensors.numpy import load_file

        folder = sorted((Path(run) / "checkpoints").iterdir())[-1]
        return load_file(folder / "model.safetensors")


def text_of(error):
    return error if isinstance(error, str) else json.dumps(error)


def log_probabilities(logits):
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def largest_difference(ours, theirs):
    """The largest difference of two models' log-probabilities, list by list; the rows beyond our vocabulary are left out."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = log_probabilities(a), log_probabilities(np.asarray(b))[:, : np.shape(a)[-1]]
        if a.shape != b.shape:
            return float("nan")
        worst = max(worst, float(np.abs(a - b).max()))
    return worst


def divergence(ours, theirs):
    """The mean over positions of the Kullback-Leibler divergence of their distribution from ours."""
    kl = []
    for a, b in zip(ours, theirs, strict=True):
        a, b = log_probabilities(a), log_probabilities(np.asarray(b))[:, : np.shape(a)[-1]]
        kl.append((np.exp(a) * (a - b)).sum(-1))
    return float(np.concatenate(kl).mean())


def core_ids(run):
    """A token's id by a run's tokenizer.json, through Python's tokenizers."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(run) / "tokenizer.json"))
