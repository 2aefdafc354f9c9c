"""What the site of the documents has beside docs/: the files of the repository that its pages link to, each as a page.

A page of text is shown as it is, a notebook as its cells, any other file as code. Links of all pages are rewritten to them, so that
`../README.md` works where the repository is shown and in the site. A link to a file that is neither is a warning, which
`mkdocs build --strict` turns into a failure.
"""

import json
import logging
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
# The files beside docs/ that pages may link to, and the language of those that are code.
TEXTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
CODES = {".rs": "rust", ".py": "python", ".yml": "yaml", "": "text"}
CODE_FOLDERS = ["examples/*.rs", ".github/workflows/*.yml", "LICENSE-*", "Containerfile", "scripts/*.py"]
NOTEBOOKS = "examples/*.ipynb"

FENCE = re.compile(r"^(```+|~~~+)")
LINK = re.compile(r"(\]\(|\ssrc=\"|\ssrcset=\")([^)\s\"#:]+)((?:#[^)\s\"]*)?[)\"])")
COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
log = logging.getLogger("mkdocs.hooks.site")


def anchor(heading, separator="-"):
    """A heading as the end of a link to it, as where the repository is shown; tests/it/docs.rs has the same rule."""
    kept = "".join(c for c in heading.strip() if c.isalnum() or c in " -_")
    return kept.lower().replace(" ", separator)


# ---- files beside docs/ as pages

def page_of(path):
    """The page of the site that shows a file beside docs/, or None."""
    if path in TEXTS:
        return f"project/{path}"
    if path.endswith(".ipynb"):
        return f"notebooks/{posixpath.basename(path)[:-6]}.md"
    return f"files/{path.lstrip('.')}.md"


def beside():
    """The files beside docs/ that have a page."""
    found = [ROOT / name for name in TEXTS]
    for pattern in [*CODE_FOLDERS, NOTEBOOKS]:
        found += sorted(ROOT.glob(pattern))
    return [path.relative_to(ROOT).as_posix() for path in found if path.is_file()]


def shown(path):
    """The text of that page."""
    text = (ROOT / path).read_text()
    if path in TEXTS:
        return text
    if path.endswith(".ipynb"):
        return notebook(path, json.loads(text))
    return f"# {path}\n\n~~~~{CODES.get(posixpath.splitext(path)[1], 'text')}\n{text.rstrip()}\n~~~~\n"


def notebook(path, content):
    """The cells of a notebook, without outputs."""
    parts = []
    for cell in content["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"~~~~python\n{source}\n~~~~")
    title, _, rest = "\n\n".join(parts).partition("\n")
    return f"{title}\n\nThis page shows the cells of the notebook `{path}`, which is executed with every change of kinglet.\n\n{rest}\n"


# ---- MkDocs calls these

def on_config(config):
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor
    return config


def on_files(files, config):
    for path in beside():
        files.append(File.generated(config, page_of(path), content=shown(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Comments that are for scripts go, and links lead to pages of the site."""
    here = ORIGINS.get(page.file.src_uri) or f"docs/{page.file.src_uri}"
    if page.is_homepage:
        # It is the navigation.
        page.meta["hide"] = ["navigation"]
    lines, fence = [], None
    # Comments may be several lines long, and are never in code.
    for line in COMMENT.sub("", markdown).splitlines():
        mark = FENCE.match(line)
        if fence is None and not mark:
            line = LINK.sub(lambda link: link[1] + target(link[2], here, page) + link[3], line)
        elif fence is None:
            fence = mark[1]
        elif line.rstrip() == fence:
            fence = None
        lines.append(line)
    return "\n".join(lines) + "\n"


def target(link, here, page):
    """A link of the file `here` of the repository, as one of a page of the site."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(here), link))
    if path.startswith("docs/"):
        to = path.removeprefix("docs/")
    elif path in PAGES:
        to = PAGES[path]
    else:
        log.warning("%s links to %s, which the site does not have", here, path)
        return link
    return posixpath.relpath(to, posixpath.dirname(page.file.src_uri) or ".")


PAGES = {path: page_of(path) for path in beside()}
ORIGINS = {page: path for path, page in PAGES.items()}
