"""A process with optimum: runs an exported folder by `ORTModelForCausalLM`, with its cache.

    python -m scripts.doors.optimum_side JOBS.json ANSWERS.json
"""

import json
import sys
import traceback

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer


def answer(job):
    model = ORTModelForCausalLM.from_pretrained(job["folder"])
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    rows = [model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0] for ids in job["lists"]]
    np.savez(job["out"], *[np.asarray(row, np.float64) for row in rows])
    given = tokenizer(job["prompt"], return_tensors="pt")
    made = model.generate(**given, max_new_tokens=job["tokens"], do_sample=False)
    return {"text": tokenizer.decode(made[0], skip_special_tokens=True), "cached": bool(model.use_cache)}


def main():
    jobs, answers = sys.argv[1:]
    out = []
    with open(jobs, encoding="utf-8") as file:
        for job in json.load(file):
            try:
                out.append(answer(job))
            except Exception as error:
                out.append({"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-1500:]})
    with open(answers, "w", encoding="utf-8") as file:
        json.dump(out, file)


if __name__ == "__main__":
    main()
