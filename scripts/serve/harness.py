"""The evaluation harness lm_eval, which knows a server as `local-completions`: its loss of a text is that of `kinglet eval`."""

import json
import math
import os
import subprocess

from ..doors.words import words
from .program import SMALL, Server

PART = "lm_eval"
BLOCK = SMALL["block_size"]
TASK = """task: kinglet_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""


def check(c, environments, report):
    folder = c.runs.parent / "lm_eval"
    folder.mkdir(exist_ok=True)
    # So many windows of the block, and one character before them.
    text = words(3000, 1)[-(BLOCK * 40 + 1) :]
    (folder / "text.txt").write_text(text, encoding="utf-8", newline="")
    (folder / "text.jsonl").write_text(json.dumps({"text": text[1:]}) + "\n", encoding="utf-8")
    (folder / "text.yaml").write_text(TASK.format(data=folder / "text.jsonl"), encoding="utf-8")
    ours = c.kinglet("eval", c.runs / "text", folder / "text.txt", "--split", "all")[-1]
    # The harness does not say which model's tokenizer it means: it can only be that of a server with one model.
    with Server(c.kinglet, c.runs / "text") as server:
        losses(environments.lm_eval(), server, folder, text, ours, report)


def losses(python, server, folder, text, ours, report):
    first = server.post("/tokenize", model="text", prompt=text[0]).json["tokens"][0]
    # The harness takes two tokens off the length: for what it generates, and for the first context.
    options = f"model=text,base_url={server.url}/v1/completions,num_concurrent=4,max_length={BLOCK + 2},custom_prefix_token_id={first}"
    options += ",tokenizer_backend=remote"
    arguments = ["run", "--model", "local-completions", "--model_args", options, "--tasks", "kinglet_text", "--include_path", folder]
    arguments += ["--output_path", folder / "results", "--batch_size", "1"]
    home = {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([python, "-m", "lm_eval", *map(str, arguments)], capture_output=True, text=True, cwd=folder, env={**os.environ, **home})
    if done.returncode:
        report.failed(PART, "the loss of a text by `local-completions`", (done.stdout + done.stderr)[-1500:])
        return
    found = json.loads(max((folder / "results").rglob("results_*.json"), key=os.path.getmtime).read_text())
    theirs = found["results"]["kinglet_text"]["bits_per_byte,none"] * math.log(2)
    note = f"{theirs:.6f} and {ours['loss']:.6f} nats, {ours['predicted_tokens']} tokens"
    report.most(PART, "the loss of a text by `local-completions`, beside `kinglet eval`, nats a token", abs(theirs - ours["loss"]), 1e-4, note)
