"""A process with llama.cpp, for one job: it ends the process where an assertion of its own fails.

    LLAMA_CPP=... python -m scripts.doors.llama_side JOBS.json ANSWERS.json

For each job {file, prompt, tokens, lists, strings, out}: ids and text of strings, the logits over each list (to OUT), the tokens
that end a text, and what it writes greedily until one of these.
"""

import numpy as np

from .jobs import answer_all
from .llama_cpp import Model


def answer(job):
    longest = max([len(ids) for ids in job["lists"]] + [len(job["prompt"].encode()) + job["tokens"]])
    model = Model(job["file"], n_ctx=max(64, longest))
    prompt = model.encode(job["prompt"], special=False)
    out = {"prompt_ids": prompt, "ends": model.ends(), "said": model.said}
    if job["lists"]:
        np.savez(job["out"], *[model.logits(ids) for ids in job["lists"]])
    encoded = [model.encode(text, special=False) for text in job.get("strings", [])]
    # An unknown character has the id -1, which is refused as an input; asking for its text would end the process.
    out["strings"] = [[ids, model.decode(ids) if -1 not in ids else None] for ids in encoded]
    if prompt and job["tokens"]:
        made = model.greedy(prompt, job["tokens"])
        out["text"], out["ended"] = job["prompt"] + model.decode(made), len(made) < job["tokens"]
    return out


if __name__ == "__main__":
    answer_all(answer)
