"""The environments of the clients and of other servers, with pinned versions, each made once in the folder of the cache."""

import os
import shutil
import subprocess
import sys
from functools import partial

from ..doors import environments as doors
from ..doors.environments import Missing

OPENAI = "openai==3.57.0"
OPENAI_NODE = "openai@6.49.0"
SCHEMATHESIS = "schemathesis==4.32.5"
BROWSER = ["playwright-core@1.65.1", "axe-core@4.14.1"]
LM_EVAL = "lm_eval[api]==0.4.13"
LLAMA_CPP = "xllamacpp==2026.10.11549"
ONNXRUNTIME = ["onnxruntime==1.32.0", "numpy==2.4.6"]


class Environments(doors.Environments):
    def clients(self):
        return self._python("clients", [OPENAI, SCHEMATHESIS])

    def node(self):
        """The folder with OpenAI's package for Node."""
        return self._npm("openai-node", [OPENAI_NODE])

    def lm_eval(self):
        return self._python("lm-eval", [LM_EVAL])

    def peers(self):
        """llama.cpp's server as a library, and ONNX Runtime."""
        return self._python("peers", [LLAMA_CPP, *ONNXRUNTIME])

    def browser(self):
        """The folder with what drives a browser and what looks for barriers in a page, and the browser: the machine's Chromium."""
        modules = self._npm("browser", BROWSER)
        return modules, chromium()

    def promtool(self):
        """Prometheus's checker: the machine's, or Debian's package, unpacked and not installed."""
        if found := shutil.which("promtool"):
            return found
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise Missing("promtool is not installed, and this is not a Debian")
        folder = self.cache / "promtool"
        with self._made(folder, "promtool, of Debian's package prometheus") as new:
            if new:
                folder.mkdir(parents=True)
                run = {"cwd": folder, "check": True, "stdout": sys.stderr, "stderr": subprocess.DEVNULL}
                subprocess.run(["apt-get", "download", "--quiet", "prometheus"], **run)
                subprocess.run(["dpkg-deb", "--extract", next(folder.glob("*.deb")), "all"], **run)
                shutil.copy(folder / "all/usr/bin/promtool", folder / "promtool")
                shutil.rmtree(folder / "all")
                next(folder.glob("*.deb")).unlink()
        return str(folder / "promtool")


def chromium():
    """The machine's Chromium; where Debian's can be installed, it is."""
    for attempt in (lambda: None, install_chromium):
        attempt()
        for name in ("chromium", "chromium-browser", "google-chrome"):
            if found := shutil.which(name):
                return found
    raise Missing("Chromium is not installed")


def install_chromium():
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing Debian's package chromium", file=sys.stderr, flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update", "--quiet"], ["install", "--quiet", "--yes", "--no-install-recommends", "chromium"]):
            subprocess.run(["apt-get", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# A module of this folder; the evaluation harness may read what it needs from a model hub.
command = partial(doors.command, package="serve", offline=False)
run_module = partial(doors.run_module, package="serve", offline=False)
