"""The measured tables of docs/SERVING.md, from the lines of a report."""

import platform
import re
from datetime import date

from ..doors.environments import ROOT
from .environments import LLAMA_CPP, LM_EVAL, ONNXRUNTIME, OPENAI, OPENAI_NODE, SCHEMATHESIS

PAGE = ROOT / "docs" / "SERVING.md"
PARTS = ["openai (Python)", "openai (Node)", "behaviours", "promtool", "schemathesis", "lm_eval", "seeds", "faults"]


def write(report):
    """Replaces what stands between the marks of each table that was measured."""
    page = PAGE.read_text(encoding="utf-8")
    tables = {"clients": (PARTS, clients), "load": (["load"], load)}
    for mark, (parts, table) in tables.items():
        lines = [line for line in report.lines if line["part"] in parts and "skipped" not in line]
        if not lines:
            continue
        block = re.compile(rf"(<!-- measured: {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert block.search(page), mark
        page = block.sub(lambda found, rows=table(lines): found[1] + "\n".join(rows) + "\n" + found[2], page)
    PAGE.write_text(page, encoding="utf-8")


def clients(lines):
    named = [OPENAI, OPENAI_NODE, SCHEMATHESIS, LM_EVAL]
    rows = [f"{date.today()}, with {', '.join(named)}.", "", "| with | what holds | |", "|---|---|---|"]
    for line in lines:
        measured = "yes" if line["measured"] in ("yes", "equal") else number(line["measured"])
        bound = f", at most {number(line['bound'])}" if isinstance(line["bound"], (int, float)) else ""
        rows.append(f"| {line['part']} | {line['what']} | {measured if line['ok'] else 'NO'}{bound} |")
    return rows


def load(lines):
    rows = [f"{date.today()}, {processor()}, with {LLAMA_CPP} and {ONNXRUNTIME[0]}. Medians of rounds that take turns.", ""]
    rows += ["| what | measured | must be | |", "|---|---|---|---|"]
    for line in lines:
        bound = line["bound"] if isinstance(line["bound"], str) else f"at most {number(line['bound'])}"
        missed = "" if line["ok"] else "missed; "
        rows.append(f"| {line['what']} | {number(line['measured'])} | {bound} | {missed}{line.get('note', '')} |")
    return rows


def processor():
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return name


def number(x):
    """Three digits of it."""
    if not isinstance(x, float):
        return str(x)
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"
