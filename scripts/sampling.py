"""Prints the fixture of `filters_are_those_of_transformers` in crates/core/src/sample.rs.

    pip install torch transformers
    python3 scripts/sampling.py

Each row is a set of knobs, and what transformers' own logits processors, in the order of its `generate`, leave of five
tokens (and of six, two of which are equally probable).
"""

import torch
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

STEEP = [0.4, 0.1, 0.3, 0.15, 0.05]
TIES = [0.25, 0.125, 0.125, 0.25, 0.125, 0.125]
KNOBS = [
    # temperature, top_k, top_p, min_p
    (1.0, 0, 0.8, 0.3),
    (1.0, 3, 0.0, 0.0),
    (1.0, 3, 0.75, 0.0),
    (1.0, 2, 0.8, 0.0),
    (1.0, 4, 0.9, 0.3),
    (2.0, 0, 0.8, 0.6),
    (2.0, 4, 0.7, 0.55),
    (0.5, 0, 0.9, 0.1),
    (0.5, 4, 0.98, 0.1),
    (0.7, 3, 0.6, 0.9),
    (1.5, 0, 1.0, 1.0),
    (1.0, 1, 0.01, 1.0),
    (3.0, 0, 0.95, 0.0),
    (1.0, 100, 0.99, 0.2),
]


def left(probabilities, temperature, top_k, top_p, min_p):
    scores = torch.tensor([probabilities], dtype=torch.float64).log()
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(None, scores)
    return scores.softmax(-1)[0].tolist()


for name, probabilities, knobs in (
    ("STEEP", STEEP, KNOBS),
    ("TIES", TIES, [(1.0, 1, 1.0, 0.0), (1.0, 3, 1.0, 0.0), (2.0, 2, 1.0, 0.5), (1.0, 3, 1.0, 0.4), (1.0, 0, 1.0, 0.6)]),
):
    for row in knobs:
        shares = ", ".join(f"{p:.6f}" for p in left(probabilities, *row))
        print(f"        ({name}, {row}, &[{shares}]),")
