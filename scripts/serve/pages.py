"""The pages in a real browser: what people do there, by mouse and by keyboard; how they look; what they may not do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from .environments import Missing
from .program import Server

PART = "pages"
SCRIPTS = Path(__file__).with_name("pages")
# So many runs of so many points, some of them with names and texts that try to be markup.
RUNS, POINTS = 100, 5000


def check(c, environments, report, shots, timed):
    """`shots` is a folder for screenshots, or none; what depends on the machine is measured only if `timed`."""
    if shutil.which("node") is None:
        raise Missing("node is not installed")
    modules, chromium = environments.browser()
    folder = c.runs.parent / "paged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(c.runs, folder)
    many = c.runs.parent / "many"
    shutil.rmtree(many, ignore_errors=True)
    subprocess.run([sys.executable, SCRIPTS / "make_runs.py", many, "--runs", str(RUNS), "--points", str(POINTS), "--hostile"], check=True)
    for name, runs in (("all", folder), ("many", many)):
        with Server(c.kinglet, runs) as server:
            words = ["node", SCRIPTS / f"{name}.mjs", modules, chromium, server.url, shots or "", server.process.pid, *(["timed"] if timed else [])]
            done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=900)
        for line in done.stdout.splitlines():
            tell(report, json.loads(line))
        if done.returncode:
            report.failed(PART, name, done.stderr[-1500:])


def tell(report, said):
    if "bound" in said:
        report.most(PART, said["what"], said["measured"], said["bound"], said["note"])
    else:
        report.holds(PART, said["what"], said["ok"], said["note"])
