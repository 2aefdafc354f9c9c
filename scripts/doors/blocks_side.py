"""A process with PyPI's `gguf`: are the blocks of a file those that its reference makes of the numbers of another?

    python -m scripts.doors.blocks_side JOBS.json ANSWERS.json

For each job {plain, packed}: the tensors of both files, and which of them have other bytes than the reference's.
"""

import gguf
import numpy as np

from .jobs import answer_all


def answer(job):
    plain, packed = (gguf.GGUFReader(job[key]) for key in ("plain", "packed"))
    numbers = {tensor.name: tensor for tensor in plain.tensors}
    different, blocks, kinds = [], 0, set()
    for tensor in packed.tensors:
        kind = tensor.tensor_type
        if kind in (gguf.GGMLQuantizationType.F32,):
            continue
        kinds.add(kind.name)
        rows = padded(np.array(numbers[tensor.name].data, np.float32), tensor.shape[::-1])
        wanted = gguf.quants.quantize(rows, kind).tobytes()
        blocks += len(wanted) // gguf.GGML_QUANT_SIZES[kind][1]
        if wanted != np.ascontiguousarray(tensor.data).tobytes():
            different.append(tensor.name)
    return {"different": different, "blocks": blocks, "kinds": sorted(kinds), "same_names": sorted(numbers) == sorted(t.name for t in packed.tensors)}


def padded(rows, shape):
    """With the zeros of hidden units that fill up a block."""
    return np.pad(rows, [(0, int(want) - has) for want, has in zip(shape, rows.shape, strict=True)])


if __name__ == "__main__":
    answer_all(answer)
