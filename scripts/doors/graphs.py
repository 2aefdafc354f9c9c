"""Graphs of kinglet's, in onnxruntime, beside kinglet's f64 reference.

    cargo run --example onnx_shapes -- /tmp/graphs
    python3 scripts/doors/graphs.py /tmp/graphs

For each shape: the graph passes onnx's checker; log-probabilities of a plain graph, of one of fixed length, and of one with a
cache that is fed in uneven pieces, past the block where positions are rotary; two texts in one batch, one of them padded at its
left. In eight bits, the difference is only shown.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

LIMIT = 1e-4


def log_softmax(z):
    z = z.astype(np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def session(folder):
    (path,) = Path(folder, "onnx").glob("*.onnx")
    onnx.checker.check_model(str(path), full_check=True)
    return onnxruntime.InferenceSession(str(path))


def empty(s, batch):
    past = {}
    for i in s.get_inputs():
        if i.name.startswith("past"):
            past[i.name] = np.zeros((batch, i.shape[1], 0, i.shape[3]), np.float32)
    return past


def cached(s, ids, mask, pieces, whole=np.int64):
    """Logits of `ids (b, t)`, fed in pieces of these lengths."""
    past, at, rows = empty(s, len(ids)), 0, []
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    for n in pieces:
        part = slice(at, at + n)
        feed = {"input_ids": ids[:, part], "attention_mask": mask[:, : at + n], "position_ids": positions[:, part]}
        outputs = s.run(None, {name: x.astype(whole) for name, x in feed.items()} | past)
        named = dict(zip([o.name for o in s.get_outputs()], outputs))
        rows.append(named.pop("logits"))
        past = {name.replace("present", "past_key_values"): x for name, x in named.items()}
        at += n
    return np.concatenate(rows, 1)


def pieces(total):
    """1, 1, 3, 2, 5, 1, 4 ... until `total`."""
    found, rest = [], total
    for n in [1, 1, 3, 2, 5, 1, 4] * total:
        if rest == 0:
            return found
        found.append(min(n, rest))
        rest -= found[-1]
    return found


def shape(folder):
    reference = json.loads((folder / "reference.json").read_text())
    block, ids = reference["block_size"], np.array([reference["ids"]])
    want = log_softmax(np.array(reference["logits"]))
    far = {}

    def compare(kind, got, want=want):
        far[kind] = np.abs(log_softmax(got) - want).max()

    ones = np.ones_like(ids)
    for kind, whole in [("cached", np.int64), ("cached32", np.int32), ("int8", np.int64)]:
        compare(kind, cached(session(folder / kind), ids, ones, pieces(ids.shape[1]), whole)[0])
    compare("at once", cached(session(folder / "cached"), ids, ones, [ids.shape[1]])[0])
    if block > 1:
        # The second text is shorter: it begins later, behind padding.
        pad, t = block // 3, block
        batch = np.concatenate([ids[:, :t], np.pad(ids[:, : t - pad], ((0, 0), (pad, 0)))])
        mask = np.ones_like(batch)
        mask[1, :pad] = 0
        both = cached(session(folder / "cached"), batch, mask, pieces(t))
        compare("batch", both[0], want[:t])
        compare("padded", both[1, pad:], want[: t - pad])
    first = ids[:, :block]
    plain = session(folder / "plain")
    compare("plain", plain.run(None, {"input_ids": first})[0][0], want[:block])
    few = block // 2 or 1
    compare("short", plain.run(None, {"input_ids": first[:, :few]})[0][0], want[:few])
    compare("static", session(folder / "static").run(None, {"input_ids": first.astype(np.int32)})[0][0], want[:block])
    return far


def main():
    worst = 0
    for folder in sorted(path.parent for path in Path(sys.argv[1]).glob("*/reference.json")):
        far = shape(folder)
        worst = max(worst, *(x for kind, x in far.items() if kind != "int8"))
        print(f"{folder.name:10}", "  ".join(f"{kind} {x:.1e}" for kind, x in far.items()), flush=True)
    print(f"largest difference of log-probabilities: {worst:.1e}, allowed {LIMIT:.0e}")
    sys.exit(not 0 < worst <= LIMIT)


main()
