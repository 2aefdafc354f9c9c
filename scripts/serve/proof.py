"""The checks of `scripts/serve.py`, in the environment that has OpenAI's client."""

import json
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

from .. import proving
from ..doors.report import Report
from . import behaviours, checks, faults, harness, openai_python, page, pages, seeds, tools
from .environments import Environments, Missing
from .load import Load
from .program import CANCELLED, OPEN, Kinglet, Server, small_runs

# Each part, and whether it belongs to the light checks, the heavy ones, or neither.
PARTS = {"openai (Python)": "light", "openai (Node)": "light", "behaviours": "light", "promtool": "light", "schemathesis": "light",
         "lm_eval": "heavy", "seeds": "light", "pages": "light", "faults": "heavy", "load": "alone"}  # fmt: skip


def main():
    about = proving.told()
    about.add_argument("--minutes", type=float, default=1)
    about.add_argument("--shots", type=Path)
    args = about.parse_args()
    if unknown := [name for name in args.only if not any(name in part for part in PARTS)]:
        raise SystemExit(f"there is no part {unknown[0]}: {', '.join(PARTS)}")
    begun, report, environments = time.monotonic(), Report(quiet=args.json), Environments(args.cache)
    with proving.folder_for_work(args, "kinglet-serve-") as work:
        work.mkdir(parents=True, exist_ok=True)
        prove(args, Kinglet(args.binary), work, report, environments)
    proving.end(args, report, environments, begun, page.write)


def prove(args, kinglet, work, report, environments):
    """The parts that are wanted; what one of them needs and this machine or this build lacks is said."""
    if "serve" not in kinglet.offers():
        raise SystemExit("this kinglet has no command serve")
    runs = small_runs(kinglet, work)
    for part in PARTS:
        if not wanted(args, part):
            continue
        begun = time.monotonic()
        try:
            if part == "load":
                Load(kinglet, work, report, environments).all()
                continue
            with Server(kinglet, runs) as server:
                prove_part(part, args, openai_python.Clients(kinglet, runs, server), report, environments)
        except Missing as missing:
            report.skip(part, "all", str(missing))
        except Exception:
            report.failed(part, "all", traceback.format_exc()[-1500:])
        print(f"{part}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def prove_part(part, args, clients, report, environments):
    if part in checks.PARTS:
        checks.run(report, part, clients)
    elif part == "openai (Node)":
        node(clients, report, environments)
    elif part == "promtool":
        tools.promtool(clients, environments, report)
    elif part == "schemathesis":
        tools.schemathesis(clients, report, 5 if args.light else 25)
    elif part == "lm_eval":
        harness.check(clients, environments, report)
    elif part == "seeds":
        seeds.check(clients, report, 10 if args.light else 200)
    elif part == "pages":
        pages.check(clients, environments, report, args.shots, not args.light)
    elif part == "faults":
        faults.check(clients, report, args.minutes)


def node(clients, report, environments):
    if shutil.which("node") is None:
        raise Missing("node is not installed")
    script = Path(__file__).with_name("openai_node.mjs")
    words = ["node", script, environments.node(), clients.server.url, ",".join(OPEN), CANCELLED]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300)
    for line in done.stdout.splitlines():
        said = json.loads(line)
        report.holds("openai (Node)", said["what"], said["ok"], said.get("note", ""))
    if done.returncode:
        report.failed("openai (Node)", "all", done.stderr[-1000:])


def wanted(args, part):
    if args.only:
        return any(name in part for name in args.only)
    kind = PARTS[part]
    return kind == "light" or kind == "heavy" and not args.light


if __name__ == "__main__":
    assert behaviours.PART in checks.PARTS
    main()
