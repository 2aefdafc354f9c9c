"""Measures kinglet beside PyTorch on this machine: the same models, the same batches, all cores, in turn.

    cargo build --release
    python3 scripts/peers.py                  # makes its own environment; 15 to 30 minutes
    python3 scripts/peers.py --rounds 3 --sizes big-0.2m --write

Every variant is a process that waits for its turn. A round measures kinglet and each variant once; medians over the rounds are
compared. PyTorch's variants are

    lecture   the lecture's code: a module for each head, AdamW's default
    eager     fused attention (SDPA), one matrix for q, k, v, fused AdamW: the best eager code we know
    compile   the same through torch.compile
    bf16      the same as eager under bf16 autocast

kinglet is measured in f32 and, where the processor multiplies it, in bf16. With --write the table goes to
docs/SPEED.md, size by size as they are done.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADING = "## Speed beside PyTorch"
VARIANTS = ["lecture", "eager", "compile", "bf16"]
F32 = ["lecture", "eager", "compile"]
ADAM = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
SIZES = {
    "big-0.2m": dict(v=65, t=32, b=16, layers=4, heads=4, c=64, dropout=0.0, act="relu", bias=True),
    "big-2.7m": dict(v=65, t=32, b=16, layers=6, heads=6, c=192, dropout=0.1, act="relu", bias=True),
    "shakespeare-char": dict(v=65, t=256, b=64, layers=6, heads=6, c=384, dropout=0.2, act="gelu", bias=False),
    "gpt2": dict(v=50257, t=64, b=4, layers=12, heads=12, c=768, dropout=0.0, act="gelu_tanh", bias=True),
}
# GPT-2's context and accumulation are cut down to one small batch.
SETTINGS = {"gpt2": ["batch_size=4", "block_size=64", "gradient_accumulation_steps=1"]}
SAMPLED = ["big-0.2m", "big-2.7m"]


def model(variant, v, t, layers, heads, c, dropout, act, bias, **_):
    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    published = act == "relu"  # the lecture's models: no bias for q, k, v, untied head, scores over sqrt(n_embd)
    scale = c**-0.5 if published else (c // heads) ** -0.5

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.key, self.query, self.value = (nn.Linear(c, c // heads, bias=bias and not published) for _ in range(3))
            self.register_buffer("tril", torch.tril(torch.ones(t, t)))
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            n = x.shape[1]
            w = self.query(x) @ self.key(x).transpose(-2, -1) * scale
            w = w.masked_fill(self.tril[:n, :n] == 0, float("-inf"))
            return self.dropout(F.softmax(w, dim=-1)) @ self.value(x)

    class ManyHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList(Head() for _ in range(heads))
            self.proj = nn.Linear(c, c, bias=bias)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            return self.dropout(self.proj(torch.cat([h(x) for h in self.heads], dim=-1)))

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(c, 3 * c, bias=bias and not published)
            self.proj = nn.Linear(c, c, bias=bias)
            self.dropout = nn.Dropout(dropout)

        def forward(self, x):
            b, n, _ = x.shape
            q, k, v = (m.view(b, n, heads, c // heads).transpose(1, 2) for m in self.qkv(x).split(c, dim=2))
            rate = dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=rate, scale=scale)
            return self.dropout(self.proj(y.transpose(1, 2).reshape(b, n, c)))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1, self.ln2 = nn.LayerNorm(c, bias=bias), nn.LayerNorm(c, bias=bias)
            self.attention = ManyHeads() if variant == "lecture" else Fused()
            gelu = nn.ReLU() if act == "relu" else nn.GELU("tanh" if act == "gelu_tanh" else "none")
            self.mlp = nn.Sequential(
                nn.Linear(c, 4 * c, bias=bias), gelu, nn.Linear(4 * c, c, bias=bias), nn.Dropout(dropout)
            )

        def forward(self, x):
            x = x + self.attention(self.ln1(x))
            return x + self.mlp(self.ln2(x))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(v, c), nn.Embedding(t, c)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.ln_f = nn.LayerNorm(c, bias=bias)
            self.lm_head = nn.Linear(c, v, bias=published)
            if not published:
                self.lm_head.weight = self.wte.weight
                # As GPT-2's: PyTorch's own deviation of 1 makes losses of hundreds and denormal gradients, with which GPT-2's
                # shape took seven times as long on an Intel Xeon.
                nn.init.normal_(self.wte.weight, std=0.02)

        def forward(self, ids, targets=None):
            x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
            logits = self.lm_head(self.ln_f(self.blocks(x)))
            if targets is None:
                return logits
            return F.cross_entropy(logits.view(-1, v), targets.view(-1))

    return Gpt()


def worker(variant, size):
    """Answers each line on standard input, `train`, `eval` or `sample`, with the median of a few seconds' work."""
    import torch

    torch.manual_seed(1337)
    torch.set_num_threads(os.cpu_count())
    config = SIZES[size]
    v, t, b = config["v"], config["t"], config["b"]
    data = torch.randint(v, (200_000,))
    gpt = model(variant, **config)
    compiled = torch.compile(gpt) if variant == "compile" else gpt
    optimizer = torch.optim.AdamW(gpt.parameters(), fused=variant != "lecture" or None, **ADAM)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=variant == "bf16")

    def batch():
        offsets = torch.randint(len(data) - t, (b,))
        return (torch.stack([data[i + k : i + k + t] for i in offsets]) for k in (0, 1))

    def train():
        ids, targets = batch()
        with autocast:
            loss = compiled(ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def evaluate():
        ids, targets = batch()
        with autocast:
            compiled(ids, targets).item()

    @torch.no_grad()
    def sample():
        ids = torch.randint(v, (1, t))
        for _ in range(16):
            with autocast:
                logits = gpt(ids[:, -t:])[:, -1]
            ids = torch.cat([ids, torch.multinomial(torch.softmax(logits.float(), -1), 1)], dim=1)

    work = dict(train=train, eval=evaluate, sample=sample)
    print(torch.__version__, flush=True)
    for line in sys.stdin:
        name, seconds = line.split()
        gpt.train(name == "train")
        for _ in range(2):
            work[name]()
        times, start = [], time.perf_counter()
        while len(times) < 3 or time.perf_counter() - start < float(seconds):
            clock = time.perf_counter()
            work[name]()
            times.append(time.perf_counter() - clock)
        print(json.dumps(statistics.median(times)), flush=True)


def ask(process, name, seconds):
    process.stdin.write(f"{name} {seconds}\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit("a PyTorch process has ended")
    return json.loads(answer)


def kinglet(size, seconds, precision):
    command = [ROOT / "target/release/kinglet", "bench", "--json", "--preset", size, "--seconds", str(seconds)]
    settings = [*SETTINGS.get(size, []), f"precision={precision}"]
    command += [part for setting in settings for part in ("--set", setting)]
    if size not in SAMPLED:
        command.append("--quick")
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(size, rounds, seconds, python):
    """{name: {figure: [one for each round]}}, in ms or tokens per second."""
    command = [python, __file__, "--worker"]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    workers = {variant: subprocess.Popen([*command, variant, size], **pipes) for variant in VARIANTS}
    version = [process.stdout.readline().strip() for process in workers.values()][0]
    figures = {name: {} for name in ["kinglet", "kinglet bf16", *VARIANTS]}

    def note(name, figure, value):
        figures[name].setdefault(figure, []).append(value)

    for variant, process in workers.items():  # torch.compile compiles now, not in the first round
        for name in ["train", "eval"] + ["sample"] * (size in SAMPLED):
            ask(process, name, 0)
    for number in range(rounds):
        for name, precision in [("kinglet", "f32"), ("kinglet bf16", "bf16")]:
            if name not in figures:
                continue
            ours = kinglet(size, seconds, precision)
            if ours["precision"] != precision:
                figures.pop(name, None)
                continue
            note(name, "train", ours["ms_per_step"])
            note(name, "eval", ours["ms_per_eval_batch"])
            note(name, "peak", ours["fraction_of_peak"])
            if size in SAMPLED:
                note(name, "sample", ours["sample"]["context_full_tokens_per_s"])
        for variant, process in workers.items():
            note(variant, "train", 1e3 * ask(process, "train", seconds))
            note(variant, "eval", 1e3 * ask(process, "eval", seconds / 2))
            if size in SAMPLED:
                note(variant, "sample", 16 / ask(process, "sample", seconds / 2))
        print(f"{size}: round {number + 1} of {rounds}", file=sys.stderr)
    for process in workers.values():
        process.stdin.close()
        process.wait()
    return figures, version


def rows(size, figures):
    """The table's lines for a size: medians, and what kinglet is faster by."""
    median = {name: {k: statistics.median(v) for k, v in f.items()} for name, f in figures.items()}
    lines = [("train", "ms, training step", 2), ("eval", "ms, evaluation batch", 2)]
    if size in SAMPLED:
        lines.append(("sample", "tokens/s, one stream, context full", 0))

    def factor(ours, names, figure):
        if ours not in median:
            return "-"
        theirs = [median[name][figure] for name in names]
        mine = median[ours][figure]
        return f"{mine / max(theirs) if figure == 'sample' else min(theirs) / mine:.2f}"

    for figure, label, digits in lines:
        names = ["kinglet", "kinglet bf16", *VARIANTS]
        cells = [f"{median[name][figure]:.{digits}f}" if name in median else "-" for name in names]
        factors = [
            factor("kinglet", F32, figure),
            factor("kinglet", ["lecture"], figure),
            factor("kinglet bf16", VARIANTS, figure),
        ]
        peak = f"{100 * median['kinglet']['peak']:.0f} %" if figure == "train" else ""
        yield [size, label, *cells, *factors, peak]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of measurements; medians are shown [5]")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each measurement [2]")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="only these models")
    parser.add_argument("--python", type=Path, help="a Python that has PyTorch, instead of making one")
    parser.add_argument("--json", type=Path, help="write every single figure to this file")
    parser.add_argument("--write", action="store_true", help="put the table into docs/SPEED.md")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(*args.worker)
    from environment import environment

    python = args.python or environment("peers", "torch", "numpy")
    info = kinglet("big-0.2m", 0, "f32")
    head = ["model", "", "kinglet", "kinglet bf16", *VARIANTS, "x best f32", "x lecture", "bf16 x best", "of peak"]
    table, everything = [head, ["---"] * len(head)], {}
    for size in args.sizes:
        everything[size], version = measure(size, args.rounds, args.seconds, python)
        table += rows(size, everything[size])
        about = (
            f"{datetime.date.today()}, {platform.machine()} with {info['isa']}, {info['threads']} threads, "
            f"PyTorch {version}; medians of {args.rounds} rounds in turn. `x best f32` and `x lecture` are kinglet in f32 "
            "against the best PyTorch variant in f32 and against the lecture's code. `bf16 x best` is kinglet in bf16 against "
            "the best PyTorch variant of any precision. `of peak` is the share of this machine's FMA peak in f32, "
            f"{info['peak_gflops']:.0f} GFLOP/s. "
            "`python3 scripts/peers.py --write` measures again."
        )
        text = f"{HEADING}\n\n{about}\n\n" + "".join("| " + " | ".join(line) + " |\n" for line in table)
        if args.json:
            args.json.write_text(json.dumps(everything, indent=1))
        if args.write:
            report = ROOT / "docs" / "SPEED.md"
            before, _, after = report.read_text().partition(HEADING)
            # The sections that follow are not from this script.
            rest = after.partition("\n## ")[1:]
            args.write.write_text(f"{before.rstrip()}\n\n{text}{''.join(rest)}")
    print(text)


if __name__ == "__main__":
    main()
