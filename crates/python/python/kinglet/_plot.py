"""Pictures."""

from __future__ import annotations

import os

from ._settings import path as checked


class Plot:
    """A picture: a notebook shows it, and `save` writes it to a file."""

    def __init__(self, svg: str) -> None:
        #: The picture as the text of an SVG file.
        self.svg = svg

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture to an SVG file."""
        found = checked("path", path)
        assert found is not None
        with open(found, "w", encoding="utf-8") as file:
            file.write(self.svg)

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<Plot: {len(self.svg)} characters of SVG; a notebook shows it, .save(path) writes it>"
