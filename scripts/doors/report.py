"""What was measured, beside what must hold."""

import json
import math


class Report:
    """The lines of the table, in the order in which they were measured."""

    def __init__(self, quiet=False):
        self.lines, self.quiet = [], quiet

    def add(self, part, what, measured, bound, ok, note=""):
        line = {"part": part, "what": what, "measured": measured, "bound": bound, "ok": bool(ok)}
        if note:
            line["note"] = note
        self.lines.append(line)
        if not self.quiet:
            print(shown(line), flush=True)
        return ok

    def most(self, part, what, measured, bound, note=""):
        """A number that may not be above a bound; none, and what is not a number, is a miss."""
        fits = measured is not None and not math.isnan(measured) and measured <= bound
        return self.add(part, what, measured, bound, fits, note)

    def equal(self, part, what, got, wanted, note=""):
        """Two things that must be the same; where they are not, the note has the first difference."""
        if got == wanted:
            return self.add(part, what, "equal", "equal", True, note)
        return self.add(part, what, "different", "equal", False, difference(got, wanted))

    def holds(self, part, what, truth, note=""):
        return self.add(part, what, "yes" if truth else "no", "yes", truth, note)

    def failed(self, part, what, why):
        return self.add(part, what, "failed", "works", False, why)

    def skip(self, part, what, why):
        """What was not checked, which is said and is no miss."""
        self.lines.append({"part": part, "what": what, "skipped": why})
        if not self.quiet:
            print(shown(self.lines[-1]), flush=True)

    @property
    def missed(self):
        return [line for line in self.lines if not line.get("ok", True)]

    def counts(self):
        skipped = sum("skipped" in line for line in self.lines)
        held = sum(line.get("ok", False) for line in self.lines)
        return held, len(self.missed), skipped

    def table(self):
        """The lines as Markdown."""
        rows = ["| part | what | measured | bound | |", "|---|---|---|---|---|"]
        for line in self.lines:
            if "skipped" in line:
                rows.append(f"| {line['part']} | {line['what']} | not checked | | {line['skipped']} |")
            else:
                verdict = "ok" if line["ok"] else f"**MISSED** {line.get('note', '')}"
                rows.append(f"| {line['part']} | {line['what']} | {number(line['measured'])} | {number(line['bound'])} | {verdict} |")
        return "\n".join(rows)

    def json(self):
        held, missed, skipped = self.counts()
        return json.dumps({"checks": self.lines, "held": held, "missed": missed, "skipped": skipped})


def number(x):
    return f"{x:.2g}" if isinstance(x, float) else str(x)


def shown(line):
    if "skipped" in line:
        return f"  -     {line['part']}: {line['what']}: skipped, {line['skipped']}"
    verdict = "ok    " if line["ok"] else "MISSED"
    note = f"  ({line['note']})" if line.get("note") else ""
    return f"  {verdict} {line['part']}: {line['what']}: {number(line['measured'])} (bound {number(line['bound'])}){note}"


def difference(got, wanted):
    """Where two texts, lists or other things part."""
    if isinstance(got, (str, list)) and type(got) is type(wanted):
        at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
        return f"at {at} of {len(wanted)}: {got[at : at + 20]!r} instead of {wanted[at : at + 20]!r}"
    return f"{str(got)[:200]!r} instead of {str(wanted)[:200]!r}"
