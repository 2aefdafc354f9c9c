"""A process with transformers, of whichever version its environment has: loads folders as its users do.

    python -m scripts.doors.transformers_side JOBS.json ANSWERS.json

For each job {folder, prompt, tokens, lists, out}: what was warned of, which keys were missing or unexpected, the ids of the
prompt, the logits over each list (to OUT.npz), and what `pipeline()` writes.
"""

import logging
import warnings

import numpy as np
import torch
import transformers

from .jobs import answer_all, attempt


class Caught(logging.Handler):
    """Every warning that a user would see."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


@torch.no_grad()
def answer(job, caught):
    folder = job["folder"]
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    out = {"class": type(model).__name__, "keys": [f"{kind}: {keys}" for kind, keys in info.items() if keys]}
    encoded = tokenizer(job["prompt"])
    out["prompt_ids"], out["fields"] = encoded["input_ids"], sorted(encoded)
    model.eval()
    np.savez(job["out"], *[model(torch.tensor([ids])).logits[0].double().numpy() for ids in job["lists"]])
    pipe = transformers.pipeline("text-generation", model=folder, dtype=torch.float32)
    settings = dict(do_sample=False, return_full_text=True)
    if job["tokens"]:
        settings["max_new_tokens"] = job["tokens"]
    out["text"] = pipe(job["prompt"], **settings)[0]["generated_text"]
    out["strings"] = [[tokenizer(text)["input_ids"], tokenizer.decode(tokenizer(text)["input_ids"])] for text in job.get("strings", [])]
    out["unknown"] = unknown(tokenizer, job.get("unknown"))
    if job.get("chat"):
        out["chat"] = tokenizer.apply_chat_template(job["chat"], tokenize=False, add_generation_prompt=True)
    if job.get("beyond"):
        out["beyond"] = beyond(model, pipe, job)
    return out


def unknown(tokenizer, text):
    """What becomes of a character that the vocabulary lacks."""
    if text is None:
        return None
    try:
        return {"ids": tokenizer(text)["input_ids"]}
    except Exception as error:
        return {"error": str(error)}


def beyond(model, pipe, job):
    """What happens when nothing is said of a length: the folder's own settings must end the text in time."""
    try:
        text = pipe(job["prompt"], do_sample=False)[0]["generated_text"]
        return {"text": text}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    caught = Caught()
    logging.getLogger().addHandler(caught)
    transformers.utils.logging.get_logger("transformers").addHandler(caught)

    def heard(job):
        """The answer, with what was said while it was found."""
        caught.said.clear()
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            answered = attempt(lambda job: answer(job, caught), job)
        # Python's own of a library that uses another library's old functions are no words to the user.
        shown = [str(w.message) for w in raised if not issubclass(w.category, (DeprecationWarning, PendingDeprecationWarning))]
        return answered | {"warnings": sorted(set(caught.said) | set(shown)), "version": transformers.__version__}

    answer_all(heard)


if __name__ == "__main__":
    main()
