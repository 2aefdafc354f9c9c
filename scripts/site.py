#!/usr/bin/env python3
"""Builds the documents as a site, in target/site: `python3 scripts/site.py`, then open target/site/index.html.

The pages are checked on the way: a link that leads nowhere, a heading that does not exist or a page that the navigation lacks is an error.
"""

import os
import re
import subprocess
import sys

from environment import ROOT, environment

PACKAGES = ["mkdocs==1.6.1", "mkdocs-material==9.8.2", "markdown==3.11.3", "pymdown-extensions==13.1.2", "pygments==2.21.0"]
# What only looks like text: a list or a table that Markdown did not take for one, as where no empty line stands before it.
LEFT_OVER = re.compile(r"<p>(?:(?!</p>).)*?\n\s*(?:[-*] |\d+\. |\|)", re.DOTALL)


def main():
    python = environment("site-env", *PACKAGES)
    quiet = {"NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    built = subprocess.run([python, "-m", "mkdocs", "build", "--strict", "--quiet"], cwd=ROOT, env=os.environ | quiet)
    if built.returncode:
        sys.exit(built.returncode)
    site = ROOT / "target" / "site"
    pages = sorted(site.rglob("*.html"))
    wrong = [f"{page.relative_to(site)}: {text}" for page in pages for text in left_over(page.read_text())]
    if wrong:
        sys.exit("not shown as it was meant:\n" + "\n".join(wrong))
    print(f"{len(pages)} pages in {site}")


def left_over(html):
    """Lines of a page that should have become a list or a table."""
    html = re.sub(r"<pre.*?</pre>", "", html, flags=re.DOTALL)
    return [found[0][-120:] for found in LEFT_OVER.finditer(html)]


if __name__ == "__main__":
    main()
