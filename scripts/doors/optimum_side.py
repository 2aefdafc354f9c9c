"""A process with optimum: runs an exported folder by `ORTModelForCausalLM`, with its cache.

    python -m scripts.doors.optimum_side JOBS.json ANSWERS.json
"""

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

from .jobs import answer_all


def answer(job):
    model = ORTModelForCausalLM.from_pretrained(job["folder"])
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    rows = [model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0] for ids in job["lists"]]
    np.savez(job["out"], *[np.asarray(row, np.float64) for row in rows])
    given = tokenizer(job["prompt"], return_tensors="pt")
    made = model.generate(**given, max_new_tokens=job["tokens"], do_sample=False)
    return {"text": tokenizer.decode(made[0], skip_special_tokens=True), "cached": bool(model.use_cache)}


if __name__ == "__main__":
    answer_all(answer)
