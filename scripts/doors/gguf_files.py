"""GGUF files in llama.cpp: every shape, every type, every tokenizer, and the traps."""

import random

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
        file = exported(exports, trained, trained.shape.gguf)
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
            file = exported(exports, trained, "any", "--dtype", dtype)
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
    # Dropped or refused; what must not be is another token, or the end of the process.
    ids = answer.get("strings", [[["failed"]]])[0][0]
    known = exports.encode(trained, "moka")
    report.holds(PART, "an unknown character is no other token", ids is None or [i for i in ids if i >= 0] == known, str(ids))


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
    """Random strings: ids and text equal to those of kinglet's tokenizer.json, in both sorts of characters, bytes and BPE."""
    from tokenizers import Tokenizer

    from ..tokenizers import any_char, random_text

    rng = random.Random(11)
    for name in ("published", "published-ends", "gpt2", "llama"):
        trained = exports.train(name, SHAPES[name])
        file = exported(exports, trained, "any")
        if file is None:
            continue
        tokenizer = Tokenizer.from_file(str(trained.run / "tokenizer.json"))
        characters = [token for token in tokenizer.get_vocab() if len(token) == 1]
        of = (lambda r: r.choice(characters)) if trained.shape.tokenizer == "char" else any_char
        strings = [random_text(rng, of) for _ in range(count)]
        if trained.shape.tokenizer == "char":
            strings = ["".join(ch for ch in text if ch in characters) for text in strings]
        strings = [text for text in strings if text and "\0" not in text and "<|endoftext|>" not in text]
        where = exports.work / f"strings-{name}.json"
        import json

        where.write_text(json.dumps(strings), encoding="utf-8")
        asked = job(exports, trained, file.parent, "strings", file=str(file)) | {"lists": [], "tokens": 0, "strings": str(where)}
        answer = ask(exports, environments, asked)
        if "failed" in answer:
            exports.report.failed("vocabulary", name, answer["failed"])
            continue
        wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in strings]
        ids = sum(got[0] != want for got, want in zip(answer["strings"], wanted, strict=True))
        texts = sum(got[1] != text for got, text in zip(answer["strings"], strings, strict=True))
        first = next((repr(text) for got, want, text in zip(answer["strings"], wanted, strings) if got[0] != want), "")
        exports.report.most("vocabulary", f"{name}: of {len(strings)} strings, other ids", ids, 0, first[:200])
        exports.report.most("vocabulary", f"{name}: of {len(strings)} strings, another text", texts, 0)
