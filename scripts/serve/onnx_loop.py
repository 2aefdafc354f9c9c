"""The loop that one writes around ONNX Runtime: `python -m scripts.serve.onnx_loop MODEL.onnx STREAMS TOKENS THREADS`. It prints
tokens per second of so many texts written together, each token drawn by temperature 1."""

import sys
import time

import numpy as np
import onnxruntime


def main():
    file, (streams, tokens, threads) = sys.argv[1], map(int, sys.argv[2:])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    write(session, streams, 8)
    begun = time.monotonic()
    write(session, streams, tokens)
    print(streams * tokens / (time.monotonic() - begun))


def write(session, streams, tokens):
    inputs = {i.name: i for i in session.get_inputs()}
    outputs = [o.name for o in session.get_outputs()]
    past = {name: np.zeros((streams, i.shape[1], 0, i.shape[3]), np.float32) for name, i in inputs.items() if name.startswith("past")}
    rng = np.random.default_rng(1)
    ids = np.ones((streams, 4), np.int64)
    at = 0
    for _ in range(tokens):
        rows = ids.shape[1]
        given = {"input_ids": ids, "attention_mask": np.ones((streams, at + rows), np.int64),
                 "position_ids": np.tile(np.arange(at, at + rows), (streams, 1))}  # fmt: skip
        named = dict(zip(outputs, session.run(None, {k: v for k, v in given.items() if k in inputs} | past), strict=True))
        logits = named.pop("logits")[:, -1].astype(np.float64)
        past = {name.replace("present", "past_key_values"): value for name, value in named.items()}
        # Adding Gumbel noise and taking the largest is drawing by the probabilities.
        ids = (logits + rng.gumbel(size=logits.shape)).argmax(-1)[:, None]
        at += rows


if __name__ == "__main__":
    main()
