"""The environments of the consumers, with pinned versions, each made once in the folder of the cache."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

# llama.cpp v0.4.0, built for this processor, and nothing else of its package.
from .llama_cpp import PACKAGE

ROOT = Path(__file__).resolve().parent.parent.parent
# What needs neither PyTorch nor a compiler: some 90 MB.
LIGHT = ["numpy==2.4.6", "onnx==1.23.2", "onnxruntime==1.32.0", "safetensors==0.8.0", "tokenizers==0.23.2", "gguf==0.19.0"]
TORCH = ["torch==2.15.0", "numpy==2.4.6", "safetensors==0.8.0"]
TRANSFORMERS_5 = ["transformers==5.24.0", "tokenizers==0.23.2", "peft==0.21.2", "gguf==0.19.0"]
TRANSFORMERS_4 = ["transformers==4.57.6", "optimum-onnx==0.1.0", "onnx==1.23.2", "onnxruntime==1.32.0"]
TRANSFORMERS_JS = ["@huggingface/transformers@4.3.1"]


class Environments:
    """Makes what is asked for and is not there yet; says how long it took."""

    def __init__(self, cache):
        self.cache = cache
        self.spent = 0.0

    def light(self):
        return self._python("light", LIGHT)

    def torch(self):
        """PyTorch, the newest transformers, PEFT."""
        return self._python("torch", TORCH + TRANSFORMERS_5)

    def transformers_4(self):
        """The last transformers before 5, and optimum, over the same PyTorch: it is five gigabytes."""
        return self._python("transformers-4", TRANSFORMERS_4, over=self.torch())

    def llama_cpp(self):
        """What tells a process where libllama is."""
        return {"LLAMA_CPP": str(self._npm("llama-cpp", [PACKAGE]) / "@node-llama-cpp/linux-x64/bins/linux-x64")}

    def transformers_js(self):
        return self._npm("transformers-js", TRANSFORMERS_JS)

    def _python(self, name, packages, over=None):
        folder = self.cache / f"{name}-{digest(packages)}"
        python = folder / "bin" / "python"
        with self._made(folder, f"a Python environment with {' '.join(packages)}") as new:
            if new:
                venv.create(folder, with_pip=True, clear=True)
                if over is not None:
                    # Its packages come after this environment's own, and count as installed.
                    (site_packages(folder) / "over.pth").write_text(f"{site_packages(over.parent.parent)}\n")
                subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, stdout=sys.stderr)
        return python

    def _npm(self, name, packages):
        folder = self.cache / f"{name}-{digest(packages)}"
        if shutil.which("npm") is None:
            raise Missing("npm is not installed")
        with self._made(folder, f"npm packages {' '.join(packages)}") as new:
            if new:
                folder.mkdir(parents=True)
                (folder / "package.json").write_text('{"private": true}\n')
                # The scripts of packages only fetch what a CPU does not need.
                quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
                subprocess.run(["npm", "install", *quiet, *packages], cwd=folder, check=True, stdout=sys.stderr)
        return folder / "node_modules"

    def _made(self, folder, what):
        return Making(self, folder, what)


class Missing(Exception):
    """What a check needs and this machine does not have."""


class Making:
    """A folder that is whole once it has the file `ready`."""

    def __init__(self, environments, folder, what):
        self.environments, self.folder, self.what = environments, folder, what

    def __enter__(self):
        self.begun = time.monotonic()
        self.new = not (self.folder / "ready").exists()
        if self.new:
            print(f"making {self.what} in {self.folder}", file=sys.stderr, flush=True)
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.new

    def __exit__(self, kind, error, _):
        if kind is None and self.new:
            (self.folder / "ready").touch()
            self.environments.spent += time.monotonic() - self.begun
        if isinstance(error, (subprocess.CalledProcessError, OSError)):
            raise Missing(f"{self.what} could not be made: {error}") from error


def digest(packages):
    return hashlib.sha256("\n".join(packages).encode()).hexdigest()[:8]


def site_packages(folder):
    return next((folder / "lib").glob("python3*")) / "site-packages"


def command(python, module, *arguments, package="doors", offline=True):
    """The command and the environment that run a module of a package beside this one; `offline`, nothing is fetched from a model
    hub meanwhile."""
    # Its own folder stays out of the path: scripts/tokenizers.py and the like would hide the packages of these names.
    path = {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "TOKENIZERS_PARALLELISM": "false"}
    hub = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"} if offline else {}
    words = [str(python), "-m", f"scripts.{package}.{module}", *map(str, arguments)]
    return words, {**os.environ, **path, **hub}


def run_module(python, module, *arguments, package="doors", offline=True, **options):
    words, environment = command(python, module, *arguments, package=package, offline=offline)
    return subprocess.run(words, env=environment | options.pop("env", {}), **options)
