"""The measured tables of docs/CLUSTER.md, from the lines of a report."""

import re
from datetime import date

from ..doors.environments import ROOT
from ..serve.page import number, processor

PAGE = ROOT / "docs" / "CLUSTER.md"


def write(report):
    """Replaces what stands between the marks of each part that was measured."""
    page = PAGE.read_text(encoding="utf-8")
    for part in {line["part"] for line in report.lines if "skipped" not in line}:
        block = re.compile(rf"(<!-- measured: {part} -->\n).*?(<!-- end -->)", re.DOTALL)
        if block.search(page):
            rows = "\n".join(table([line for line in report.lines if line["part"] == part and "skipped" not in line]))
            page = block.sub(lambda found, rows=rows: f"{found[1]}{rows}\n{found[2]}", page)
    PAGE.write_text(page, encoding="utf-8")


def table(lines):
    rows = [f"{date.today()}, {processor()}.", "", "| what | measured | must be | |", "|---|---|---|---|"]
    for line in lines:
        bound = line["bound"] if isinstance(line["bound"], str) else f"at most {number(line['bound'])}"
        missed = "" if line["ok"] else "missed; "
        rows.append(f"| {line['what']} | {number(line['measured'])} | {bound} | {missed}{line.get('note', '')} |")
    return rows
