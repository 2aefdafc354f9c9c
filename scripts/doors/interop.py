"""The measured tables of docs/INTEROP.md, from the lines of a report."""

import platform
import re
from datetime import date

from .environments import PACKAGE, ROOT, TORCH, TRANSFORMERS_4, TRANSFORMERS_5, TRANSFORMERS_JS
from .report import number
from .shapes import SHAPES

PAGE = ROOT / "docs" / "INTEROP.md"
COLUMNS = {"transformers 5": "transformers 5", "transformers 4": "4.57", "llama.cpp": "llama.cpp", "onnxruntime": "onnxruntime", "optimum": "optimum"}


def write(report):
    """Replaces what stands between the marks of each table."""
    page = PAGE.read_text(encoding="utf-8")
    for mark, lines in {"shapes": shapes(report), "imports": imports(report), "rest": rest(report)}.items():
        block = re.compile(rf"(<!-- measured: {mark} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert block.search(page), mark
        page = block.sub(lambda found, lines=lines: found[1] + "\n".join(lines) + "\n" + found[2], page)
    PAGE.write_text(page, encoding="utf-8")


def versions():
    named = [p.replace("==", " ") for p in (TORCH[0], TRANSFORMERS_5[0], TRANSFORMERS_4[0], TRANSFORMERS_4[3])]
    named += [p.rpartition("@")[0] + " " + p.rpartition("@")[2] for p in (PACKAGE, *TRANSFORMERS_JS)]
    return f"{date.today()}, {platform.machine()}, {', '.join(named)}."


def found(report, part, start, end=""):
    """The largest of the measured numbers of these lines, or none."""
    lines = [line for line in report.lines if line["part"] == part and line["what"].startswith(start) and end in line["what"]]
    numbers = [line["measured"] for line in lines if isinstance(line.get("measured"), (int, float))]
    return number(float(max(numbers))) if numbers else ""


def settings(shape):
    parts = {"position": "learned", "norm": "layernorm", "activation": "relu"} | shape.settings
    words = [str(parts.pop(key)) for key in ("position", "norm", "activation")]
    parts.pop("attention_scale", None)
    words += [key if value is True else f"{key}={value}".replace("'", "") for key, value in parts.items() if value is not False]
    return ", ".join(words) + f"; {shape.tokenizer}"


def shapes(report):
    heads = " | ".join(COLUMNS.values())
    rows = [versions(), "", f"| shape | transformers | GGUF | {heads} |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for name, shape in SHAPES.items():
        cells = [found(report, part, f"{name}: log-probabilities") for part in COLUMNS]
        rows.append(f"| {settings(shape)} | {shape.hf or 'refused'} | {shape.gguf or 'refused'} | {' | '.join(cells)} |")
    return rows


def imports(report):
    rows = ["| file | logits in f64 | logits in f32 | loss by `eval` |", "|---|---|---|---|"]
    names = dict.fromkeys(line["what"].partition(":")[0] for line in report.lines if line["part"] == "import" and "logits" in line["what"])
    for name in names:
        cells = [found(report, "import", f"{name}: {what}") for what in ("logits in f64", "logits in f32", "loss")]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def rest(report):
    """Everything that is a number and in neither of the tables above."""
    rows = ["| where | what | measured | must be at most |", "|---|---|---|---|"]
    above = ("import", "transformers 5", "transformers 4", "optimum")
    for line in report.lines:
        numeric = isinstance(line.get("measured"), (int, float)) and line["part"] not in above
        if numeric and not (line["part"] in COLUMNS and line["what"].partition(": log-probabilities")[0] in SHAPES):
            rows.append(f"| {line['part']} | {line['what']} | {number(line['measured'])} | {number(line['bound'])} |")
    return rows
