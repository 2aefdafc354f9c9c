"""GGUF files in llama.cpp: every shape, every type, every tokenizer, and the traps."""

import os
import random
import re
import subprocess
from pathlib import Path

import numpy as np

from .exports import BOUND, SHAPES, TOKENS, job, short
from .program import divergence, largest_difference

# llama.cpp's GELU on a CPU is a table of 16-bit floats.
GELU_BOUND, GELU_KL = 5e-3, 1e-6
TYPES = {"f16": (5e-2, 1e-4), "q8_0": (None, 1e-2), "q5_0": (None, 1e-1), "q4_0": (None, 3e-1)}
PART = "llama.cpp"


def ask(exports, environments, asked):
    """One process for each file, since llama.cpp ends its process where it asserts."""
    (answer,) = exports.ask(environments.light(), "llama_side", [asked], env=environments.llama_cpp())
    return answer


def check(exports, environments, names):
    for name in names:
        trained = exports.train(name, SHAPES[name])
        file = exported(exports, trained, trained.shape.gguf, *trained.shape.leave)
        if file is not None:
            of_file(exports, environments, trained, file)
    types(exports, environments)
    traps(exports, environments)


def exported(exports, trained, expected, *options):
    folder = exports.export(trained, "gguf", expected, *options)
    if folder is None:
        return None
    file = next(iter(sorted(folder.glob("*.gguf"))), None)
    if file is None:
        exports.report.failed("export gguf", trained.name, f"no .gguf in {sorted(folder.iterdir())}")
    return file


def of_file(exports, environments, trained, file):
    report, name = exports.report, trained.name
    asked = job(exports, trained, file.parent, "llama", file=str(file), strings=[trained.text])
    answer = ask(exports, environments, asked)
    bound, kl = (GELU_BOUND, GELU_KL) if trained.shape.gelu else (BOUND, None)
    exports.compare(PART, trained, answer, asked["out"], bound, kl)
    if "failed" in answer:
        return
    report.equal(PART, f"{name}: ids of the prompt", answer["prompt_ids"], trained.prompt_ids)
    ids, text = answer["strings"][0]
    report.equal(PART, f"{name}: a text there and back", text, trained.text)
    semicolon = exports.encode(trained, ";")
    report.holds(PART, f"{name}: no semicolon ends a text", not set(semicolon) & set(answer["ends"]), f"ends: {answer['ends']}")


def types(exports, environments):
    """The smaller types, whose difference is theirs: it is said, and bounded."""
    for name in ("published", "llama"):
        trained = exports.train(name, SHAPES[name])
        for dtype, (bound, kl) in TYPES.items():
            # ReLU by GELU's function leaves a trace where numbers are small, which the export asks about.
            leave = ["--max-difference", "1e-2"] if name == "published" else []
            file = exported(exports, trained, "any", "--dtype", dtype, *leave)
            if file is None:
                continue
            asked = job(exports, trained, file.parent, f"llama-{dtype}", file=str(file))
            answer = ask(exports, environments, asked)
            if "failed" in answer:
                exports.report.failed(PART, f"{name} {dtype}", answer["failed"])
                continue
            with np.load(asked["out"]) as saved:
                theirs = [saved[key] for key in saved]
            if bound:
                exports.report.most(PART, f"{name} {dtype}: log-probabilities", largest_difference(trained.logits, theirs), bound)
            exports.report.most(PART, f"{name} {dtype}: KL divergence", divergence(trained.logits, theirs), kl)


def traps(exports, environments):
    report = exports.report
    # A model that writes a semicolon after every word, in a vocabulary where it has the id that llama.cpp takes for an end.
    rng = random.Random(3)
    words = ["ka", "ri", "mo", "te"]
    run, text = exports.work / "runs" / "semicolons", exports.work / "semicolons.txt"
    text.write_text("\n !$&',-.3:" + "".join(f"{rng.choice(words)}; " for _ in range(3000)), encoding="utf-8", newline="")
    exports.kinglet.train(run, text, max_iters=exports.steps, eval_interval=exports.steps, bias=["proj", "mlp", "head", "norm"])
    before, exports.work_text = exports.work_text, text
    trained = exports.known("semicolons", run, SHAPES["published"], prompt="ka; ")
    exports.work_text = before
    report.holds(PART, "semicolons: kinglet writes them", trained.text.count(";") > TOKENS // 10, trained.text[:60])
    file = exported(exports, trained, "any")
    if file is not None:
        of_file(exports, environments, trained, file)
    # A block of 32 positions that are learned: two hundred tokens are asked for, and the text must end, not the process.
    trained = short(exports)
    file = exported(exports, trained, "any")
    if file is None:
        return
    of_file(exports, environments, trained, file)
    asked = job(exports, trained, file.parent, "llama-short", file=str(file)) | {"tokens": TOKENS, "lists": []}
    answer = ask(exports, environments, asked)
    ended = answer.get("ended", False) and trained.text.startswith(answer["text"][: len(trained.text)])
    report.holds(PART, "block of 32: 200 tokens asked for, the text ends by itself", ended, answer.get("failed", str(answer.get("ids")))[:300])
    asked = job(exports, trained, file.parent, "llama-unknown", file=str(file)) | {"tokens": 0, "lists": [], "strings": ["mo\u2603ka"]}
    answer = ask(exports, environments, asked)
    # Its id is -1, which llama_decode refuses; it must be no other token, and not the end of the process.
    ids = answer["strings"][0][0] if "strings" in answer else [answer.get("failed")]
    report.holds(PART, "an unknown character is an error", -1 in ids, str(ids))


def blocks(exports, environments):
    """Every block of q8_0, q5_0 and q4_0 is the one that ggml's reference makes of the same numbers."""
    trained = exports.train("llama", SHAPES["llama"])
    plain, jobs, of = exported(exports, trained, "any"), [], []
    for dtype in ("q8_0", "q5_0", "q4_0", "f16"):
        packed = exported(exports, trained, "any", "--dtype", dtype)
        if plain and packed:
            jobs.append({"plain": str(plain), "packed": str(packed)})
            of.append(dtype)
    for dtype, answer in zip(of, exports.ask(environments.torch(), "blocks_side", jobs), strict=True):
        if "failed" in answer:
            exports.report.failed("blocks", dtype, answer["failed"])
            continue
        exports.report.holds("blocks", f"{dtype}: there are some", answer["blocks"] > 100 and dtype.upper() in answer["kinds"], str(answer))
        exports.report.equal("blocks", f"{dtype}: tensors that differ in a bit, of {answer['blocks']} blocks", answer["different"], [])


# ---- vocabularies


def vocabularies(exports, environments, count):
    """Random strings and lists of ids: kinglet's and llama.cpp's, for both sorts of characters, bytes and BPE."""
    script = Path(__file__).parent / "vocabulary.py"
    words = [environments.light(), script, exports.kinglet.binary, "--strings", count]
    done = subprocess.run([str(word) for word in words], env={**os.environ, **environments.llama_cpp()}, capture_output=True, text=True)
    lines = re.findall(r"^(.*): (\d+) strings, (\d+) lists of ids: (\d+) with other ids, (\d+) with another text(.*)$", done.stdout, re.MULTILINE)
    if done.returncode and not lines:
        exports.report.failed("vocabulary", "all", (done.stdout + done.stderr)[-600:])
    for kind, strings, lists, ids, texts, more in lines:
        exports.report.most("vocabulary", f"{kind}: of {strings} strings, other ids", int(ids), 0, more.strip("; "))
        exports.report.most("vocabulary", f"{kind}: of {strings} strings and {lists} lists, another text", int(texts), 0)
    exports.report.holds("vocabulary", "all kinds were compared", len(lines) >= 4 and done.returncode == 0, done.stderr[-300:])
