#!/usr/bin/env python3
"""Writes docs/reference/python.md from the docstrings of the Python module; `--check` fails if it is not what they say.

It reads the source, so that it needs no build and gives the same page under every Python.
"""

import ast
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "crates" / "python" / "python" / "kinglet"
PAGE = ROOT / "docs" / "reference" / "python.md"
WIDTH = 100

HEAD = """# The Python module

Written by `scripts/python_reference.py` from the docstrings of the module; `help(kinglet.train)` shows the same. The types of arguments are
also in the module itself, for type checkers. [Python in ten minutes](../tutorials/python.md) is a better beginning.

"""
#: What belongs together, in the order of the page. A name that is new goes where it fits, or else to the end.
GROUPS = {
    "Training": ["train", "resume", "finetune", "tune", "prepare", "plan", "presets", "keys"],
    "Runs": ["Run", "runs", "compare", "compare_bits", "Comparison", "Tuning", "Plot"],
    "Models": ["load", "Model", "Generation", "Scores", "Tokenizer", "evaluate"],
    "Other programs": ["import_", "export", "quantize", "merge", "Made", "Exported"],
    "The command": ["command"],
    "Errors": ["Error", "ConfigError", "DataError", "NotFoundError", "RunError", "DivergedError", "KingletWarning"],
}
HEADINGS = {"Args": "Arguments"}
SECTION = re.compile(r"^(Args|Returns|Raises|Yields):$")


# ---- the source

def definitions():
    """The public names, in the order of `__all__`, each with its definition."""
    init = ast.parse((PACKAGE / "__init__.py").read_text())
    places, public = {}, []
    for node in init.body:
        if isinstance(node, ast.ImportFrom):
            places |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            public = ast.literal_eval(node.value)
    found = {}
    for name in public:
        module, original = places[name]
        tree = ast.parse((PACKAGE / f"{module}.py").read_text())
        found[name] = next(node for node in tree.body if getattr(node, "name", None) == original)
    return found


def attributes(node):
    """The documented attributes of a class: those with a string behind them, or a comment `#:` before them."""
    found, body = [], node.body
    for one, next_one in zip(body, body[1:]):
        if isinstance(one, ast.AnnAssign) and isinstance(next_one, ast.Expr) and isinstance(next_one.value, ast.Constant):
            found.append((one.target.id, ast.unparse(one.annotation), inspect.cleandoc(next_one.value.value)))
    return found


def commented(module_text, node):
    """Attributes that `__init__` sets, with the comment `#:` before them."""
    lines, found = module_text.splitlines()[node.lineno - 1 : node.end_lineno], []
    said = []
    for line in lines:
        line = line.strip()
        if line.startswith("#: "):
            said.append(line[3:])
            continue
        if said and (set_ := re.match(r"self\.([a-z]\w*)(?:: ([^=]+?))? = ", line)):
            found.append((set_[1], set_[2] or "", " ".join(said)))
        said = []
    return found


# ---- the page

def signature(name, node, is_method):
    """How it is called, on one line or on one for each argument."""
    listed = arguments(node.args, is_method)
    of = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    whole = f"{name}({', '.join(listed)}){of}"
    return whole if len(whole) <= WIDTH else f"{name}(\n" + "".join(f"    {each},\n" for each in listed) + f"){of}"


def arguments(args, is_method):
    """The arguments of a function, each with its type and its default."""
    def one(arg, default=None, star=""):
        kind = f": {ast.unparse(arg.annotation)}" if arg.annotation else ""
        return f"{star}{arg.arg}{kind}" + (f" = {ast.unparse(default)}" if default else "")

    places = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(places) - len(args.defaults)) + args.defaults
    listed = [one(arg, default) for arg, default in zip(places, defaults)][int(is_method) :]
    if args.vararg:
        listed.append(one(args.vararg, star="*"))
    elif args.kwonlyargs:
        listed.append("*")
    listed += [one(arg, default) for arg, default in zip(args.kwonlyargs, args.kw_defaults)]
    return listed + ([one(args.kwarg, star="**")] if args.kwarg else [])


def words(text):
    """A docstring's text as Markdown: roles and double backticks become code."""
    text = re.sub(r":(?:class|func|meth|attr|exc|mod):`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def documented(docstring):
    """A docstring as Markdown: its sections become lists, and its examples code."""
    lines, out = inspect.cleandoc(docstring or "").splitlines(), []
    section, example = None, False
    for line in lines:
        if example and not line.strip():
            out.append("```")
            example = False
        if found := SECTION.match(line):
            section = found[1]
            out += [f"**{HEADINGS.get(section, section)}**", ""]
        elif line.lstrip().startswith(">>> ") or example:
            if not example:
                out.append("```pycon")
            example = True
            out.append(re.sub(r"\s*# doctest:.*", "", line))
        elif section and line.startswith("    ") and not line.startswith("     "):
            item = re.match(r"(\*{0,2}\w+): (.*)", line.strip())
            out.append(f"- `{item[1]}`: {words(item[2])}" if item and section != "Returns" else words(line.strip()))
        elif section and line.strip() and not line.startswith(" "):
            section = None
            out.append(words(line))
        elif section and line.strip():
            # More of the item before.
            out.append("  " + words(line.strip()))
        else:
            out.append(words(line))
    if example:
        out.append("```")
    return "\n".join(out).strip()


def function(name, node, level, is_method=False):
    code = signature(name, node, is_method)
    return f"{'#' * level} {name}\n\n```text\n{code}\n```\n\n{documented(ast.get_docstring(node))}\n\n"


def cls(name, node, text, level):
    """A class: what it is, its attributes and properties as a table, its methods."""
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    out = f"{'#' * level} {name}\n\n" + (f"Bases: `{bases}`.\n\n" if bases else "") + documented(ast.get_docstring(node)) + "\n\n"
    rows = commented(text, node) + attributes(node)
    methods = []
    for member in node.body:
        if not isinstance(member, ast.FunctionDef) or member.name.startswith("_") or not ast.get_docstring(member):
            continue
        decorators = {ast.unparse(decorator) for decorator in member.decorator_list}
        if "property" in decorators:
            rows.append((member.name, ast.unparse(member.returns), ast.get_docstring(member)))
        else:
            methods.append(function(f"{name}.{member.name}", member, level + 1, "staticmethod" not in decorators))
    if rows:
        out += "| attribute | type | |\n|---|---|---|\n"
        cell = lambda value: " ".join(words(value).split()).replace("|", "\\|")
        out += "".join(f"| `{key}` | {f'`{cell(of)}`' if of else ''} | {cell(says)} |\n" for key, of, says in rows) + "\n"
    return out + "".join(methods)


def page():
    found = definitions()
    init = ast.parse((PACKAGE / "__init__.py").read_text())
    places = {alias.name: node.module for node in init.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    groups = {title: [name for name in names if name in found] for title, names in GROUPS.items()}
    left = [name for name in found if not any(name in names for names in groups.values())]
    out = HEAD
    for title, names in {**groups, "Others": left}.items():
        if not names:
            continue
        out += f"## {title}\n\n"
        for name in names:
            node = found[name]
            if isinstance(node, ast.ClassDef):
                out += cls(name, node, (PACKAGE / f"{places[node.name]}.py").read_text(), 3)
            else:
                out += function(name, node, 3)
    return re.sub(r"\n{3,}", "\n\n", out).rstrip() + "\n"


def main():
    written = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != written:
            sys.exit(f"{PAGE.relative_to(ROOT)} is not what the docstrings say: python3 scripts/python_reference.py writes it anew")
        print("the reference of the Python module is what its docstrings say")
        return
    PAGE.write_text(written)


if __name__ == "__main__":
    main()
