#!/usr/bin/env python3
"""What 2 to 1024 machines would give, on paper: a table of docs/CLUSTER.md.

    cargo build --release --bin kinglet
    python3 scripts/scaling.py target/release/kinglet            # measures for minutes, and prints the table
    python3 scripts/scaling.py target/release/kinglet --write    # also writes it into the page

`kinglet plan --ranks 4` measures what one process and one of several ranks take. For more ranks, whose batch does not fit into the
memory of one machine, the formulas of the page are computed here. They are first held against the plan's own rows. Times are
right only on a machine that does nothing else.
"""

import argparse
import json
import math
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "CLUSTER.md"
RANKS = [2**i for i in range(1, 11)]
RATES = [1e9, 10e9, 100e9]
# Of a network's rate, what is left beside headers; the seconds of a message. As in src/train/scaling.rs.
PAYLOAD, MESSAGE_S = 0.94, 50e-6
# The bytes of a chunk, and how many more than the hops of a way are on it. As in crates/core/src/ranks/chain.rs.
CHUNK, AHEAD = 16 * 1024, 32
# Of forward and backward passes, the backward passes.
BACKWARD = 2 / 3
# Preset, what is measured, sequences of a step on paper, and how many of them a rank computes at once.
MODELS = [
    ("shakespeare-char", {"batch_size": 32, "eval_iters": 1}, 1024, 16),
    ("gpt2", {"batch_size": 4, "gradient_accumulation_steps": 1, "eval_iters": 1}, 1024, 4),
]
# How far the formulas may be from the plan's rows.
NEAR = 0.1


class Model:
    """What was measured of a model, in seconds and bytes."""

    def __init__(self, kinglet, preset, settings):
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        command = ["plan", "--preset", preset, *sets, "--ranks", "4", "--network", "1G", "--json"]
        plan = call(kinglet, command)
        info = call(kinglet, ["info", preset, "--json"])
        self.preset, self.params = preset, plan["params"]
        self.scaling = plan["scaling"]
        self.block = self.scaling["tokens_per_step"] / self.scaling["sequences_per_step"]
        one, *_, most = self.scaling["rows"]
        self.token_s = 1e-3 * one["ms_passes"] / self.scaling["tokens_per_step"]
        self.same_s, self.one_sum_s = 1e-3 * one["ms_same"], 1e-3 * one["ms_sum"]
        self.sum_s = 1e-3 * most["ms_sum"]
        self.gradient = self.scaling["gradient_bytes"]
        # Embeddings, also those that the head shares, are complete when all else is.
        scale = self.gradient / (4 * info["params"])
        self.tail = scale * 4 * sum(n for name, n in info["parts"].items() if name.startswith(("wte", "wpe")))

    def one_s(self, sequences):
        return sequences * self.block * self.token_s + self.same_s + self.one_sum_s

    def step_s(self, ranks, rate, sequences, at_once):
        """The seconds of a step of so many sequences, of which a rank computes at most so many at once."""
        second = PAYLOAD * rate / 8
        passes = sequences / ranks * self.block * self.token_s
        backward = BACKWARD * min(passes, at_once * self.block * self.token_s)
        levels, hops, ways = math.ceil(math.log2(ranks)), 2 * (ranks - 1), 1 if ranks == 2 else 2
        first = hops * (CHUNK / second + MESSAGE_S + 0.5 * self.sum_s * CHUNK / self.gradient)
        byte_s = max(ways / second, first / (hops + AHEAD) / CHUNK)
        chain = first + max((self.gradient - CHUNK) * byte_s - backward, max(self.tail - CHUNK, 0) * byte_s)
        batch = levels * 8 * sequences * self.block / second
        # Messages that travel during the passes take a core that would compute.
        chunks = self.gradient / CHUNK
        chain += min(1, backward / (byte_s * self.gradient)) * chunks * 2 * ways * MESSAGE_S / self.scaling["threads"]
        return passes + self.same_s + self.sum_s + chain + batch + (3 * levels + 1) * MESSAGE_S

    def check(self):
        """Holds the formulas against the rows of the plan."""
        sequences = self.scaling["sequences_per_step"]
        for row in self.scaling["rows"][1:]:
            ranks, planned = row["ranks"], 1e-3 * row["ms_per_step"]
            computed = self.step_s(ranks, self.scaling["network_bit_per_s"], sequences, sequences / ranks)
            print(f"{self.preset}, {ranks} ranks: planned {planned:.3f} s, computed {computed:.3f} s", file=sys.stderr)
            if abs(computed / planned - 1) > NEAR:
                sys.exit(f"{self.preset}, {ranks} ranks: the formulas are not those of the plan, or the machine was busy")


def call(kinglet, args):
    return json.loads(subprocess.run([kinglet, *args], check=True, capture_output=True, text=True).stdout)


def processor():
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return name[1] if name else "an unknown processor"


def table(models):
    threads = models[0].scaling["threads"]
    lines = [f"Speed-up of a step, by what was measured on {date.today()}: {processor()}, {threads} threads in each rank.", ""]
    for model, (_, _, sequences, at_once) in zip(models, MODELS, strict=True):
        tokens = sequences * model.block
        lines.append(
            f"- `{model.preset}`, {model.params / 1e6:.2f}M parameters: {tokens:,.0f} tokens a step ({sequences} sequences, at most {at_once} "
            f"at once in a rank), which take one rank {model.one_s(sequences):,.0f} s"
        )
    names = [f"{model.preset}, {rate / 1e9:.0f} Gbit/s" for model in models for rate in RATES]
    lines += ["", f"| ranks | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for ranks in RANKS:
        cells = []
        for model, (_, _, sequences, at_once) in zip(models, MODELS, strict=True):
            for rate in RATES:
                speed_up = model.one_s(sequences) / model.step_s(ranks, rate, sequences, at_once)
                cells.append(f"{speed_up:.3g} ({100 * speed_up / ranks:.0f} %)")
        lines.append(f"| {ranks} | {' | '.join(cells)} |")
    return lines


def main():
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("kinglet", type=Path, help="the program")
    about.add_argument("--write", action="store_true", help="also write the table into docs/CLUSTER.md")
    args = about.parse_args()
    models = [Model(args.kinglet.resolve(), preset, settings) for preset, settings, _, _ in MODELS]
    for model in models:
        model.check()
    text = "\n".join(table(models))
    print(text)
    if args.write:
        page = PAGE.read_text(encoding="utf-8")
        block = re.compile(r"(<!-- measured: paper -->\n).*?(<!-- end -->)", re.DOTALL)
        PAGE.write_text(block.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
