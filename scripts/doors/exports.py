"""Models that kinglet trained, exported: what stands on the other side must be the same model.

Every shape is trained, exported to each format, and loaded there by the program that people use. Compared are the ids of the
prompt, the log-probabilities over texts and over random ids, and what is written greedily over 200 tokens.
"""

import json
import random
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .environments import command, run_module
from .program import Failed, divergence, largest_difference
from .shapes import SHAPES

BOUND = 1e-4
TOKENS = 200
PROMPT = "mo ka; ri"
# What transformers 4 says of every model, and of a greedy text beside its pipeline's own temperature.
NOT_OF_THE_MODEL = ("Device set to use", "The following generation flags are not valid and may be ignored: ['temperature']")


@dataclass
class Trained:
    """A run, and what kinglet makes of some ids and of a prompt."""

    name: str
    run: Path
    shape: object
    block: int
    vocab: int
    lists: list
    logits: list
    prompt: str
    prompt_ids: list
    text: str
    ids: list
    # How many tokens to ask for: more than these where the model itself ends the text.
    tokens: int
    folders: dict = field(default_factory=dict)


class Exports:
    """All that is exported, in one folder."""

    def __init__(self, kinglet, report, work, steps):
        self.kinglet, self.report, self.work, self.steps = kinglet, report, work, steps
        self.trained = {}
        self.work_text = work / "text.txt"

    def encode(self, trained, text):
        """kinglet's ids of a text, by the tokenizer.json of its run."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(trained.run / "tokenizer.json")).encode(text, add_special_tokens=False).ids

    def train(self, name, shape):
        """The run of a shape, once."""
        if name in self.trained:
            return self.trained[name]
        run = self.work / "runs" / name
        data = self.work / ("documents.jsonl" if shape.documents else "text.txt")
        settings = {"max_iters": self.steps, "eval_interval": self.steps} | shape.settings
        self.kinglet.train(run, data, shape.tokenizer, shape.preset, **settings)
        self.trained[name] = self.known(name, run, shape)
        return self.trained[name]

    def known(self, name, run, shape=None, prompt=PROMPT, tokens=TOKENS):
        """What kinglet makes of a run."""
        from tokenizers import Tokenizer

        config, tokenizer = self.kinglet.config(run), Tokenizer.from_file(str(run / "tokenizer.json"))
        block, vocab = int(config["block_size"]), tokenizer.get_vocab_size()
        ids = tokenizer.encode(self.work_text.read_text(encoding="utf-8"), add_special_tokens=False).ids
        rng = random.Random(len(ids))
        lists = [ids[:block], ids[500 : 500 + block // 2], [rng.randrange(vocab) for _ in range(block)], ids[:1]]
        written = self.kinglet("sample", run, "--prompt", prompt, "--tokens", tokens, "--temperature", 0)[-1]
        made, end = written["ids"], tokenizer.token_to_id("<|endoftext|>")
        ended = end in made
        made = made[: made.index(end)] if ended else made
        # Others end where the model ends a text; kinglet's plain text goes on.
        text = prompt + (tokenizer.decode(made) if ended else written["text"])
        return Trained(
            name, run, shape, block, vocab, lists, self.kinglet.logits(run, lists), prompt,
            tokenizer.encode(prompt, add_special_tokens=False).ids, text, made, tokens if ended else len(made),
        )  # fmt: skip

    def export(self, trained, form, expected, *options):
        """Exports a run; a shape without a form must be refused by the name of the setting. Its folder, or none."""
        out = self.work / "exports" / "-".join([trained.name, form, *(option.strip("-") for option in options)])
        part = f"export {form}"
        if out.exists():
            return out
        try:
            said = self.kinglet("export", trained.run, "--format", form, "--out", out, *options)[-1]
        except Failed as error:
            if expected is None:
                because = trained.shape.because
                self.report.holds(part, f"{trained.name}: refused by the name of {because}", because in str(error), str(error)[:300])
            else:
                self.report.failed(part, trained.name, str(error))
            return None
        if expected is None:
            self.report.failed(part, f"{trained.name}: refused", f"it was exported: {json.dumps(said)[:300]}")
            return None
        if not options:
            trained.folders[form] = out
        return out

    def ask(self, python, module, jobs, **options):
        """The answers of a process to jobs."""
        if not jobs:
            return []
        questions, answers = self.work / f"{module}-jobs.json", self.work / f"{module}-answers.json"
        questions.write_text(json.dumps(jobs))
        answers.unlink(missing_ok=True)
        if callable(python):
            words, environment = python(questions, answers)
            done = subprocess.run(words, env=environment, capture_output=True, text=True)
        else:
            done = run_module(python, module, questions, answers, capture_output=True, text=True, **options)
        if not answers.exists():
            said = f"{module} ended with {done.returncode}: {done.stderr[-600:]}"
            return [{"failed": said} for _ in jobs]
        return json.loads(answers.read_text())

    def compare(self, part, trained, answer, file, bound=BOUND, kl=None):
        """A consumer's logits, and its text where it wrote one."""
        if "failed" in answer:
            self.report.failed(part, trained.name, answer["failed"][:600])
            return
        if file is not None:
            with np.load(file) as saved:
                theirs = [saved[key] for key in saved]
            self.report.most(part, f"{trained.name}: log-probabilities", largest_difference(trained.logits, theirs), bound)
            if kl is not None:
                self.report.most(part, f"{trained.name}: KL divergence", divergence(trained.logits, theirs), kl)
        if "text" in answer:
            self.report.equal(part, f"{trained.name}: greedy text of {len(trained.ids)} tokens", answer["text"], trained.text)


def job(exports, trained, folder, part, **more):
    return {
        "folder": str(folder), "prompt": trained.prompt, "tokens": trained.tokens, "lists": trained.lists,
        "out": str(exports.work / f"{part}-{trained.name}.npz"),
    } | more  # fmt: skip


# ---- transformers, in both versions


def transformers(exports, environments, names):
    chosen = [exports.train(name, SHAPES[name]) for name in names]
    chosen = [trained for trained in chosen if exports.export(trained, "hf", trained.shape.hf)]
    for version, python in (("5", environments.torch()), ("4", environments.transformers_4())):
        part = f"transformers {version}"
        jobs = [job(exports, trained, trained.folders["hf"], f"hf{version}", unknown="\u2603" if trained.shape.tokenizer == "char" else None)
                for trained in chosen]  # fmt: skip
        for trained, asked, answer in zip(chosen, jobs, exports.ask(python, "transformers_side", jobs), strict=True):
            exports.compare(part, trained, answer, asked["out"])
            if "failed" not in answer:
                as_users_see_it(exports.report, part, trained, answer)


def as_users_see_it(report, part, trained, answer):
    name = trained.name
    report.equal(part, f"{name}: its class", answer["class"], trained.shape.hf)
    said = [warning for warning in answer["warnings"] if not warning.startswith(NOT_OF_THE_MODEL)]
    # A folder whose positions end says so, or a text without a length would end in an IndexError; transformers 5 notes it.
    if trained.shape.settings.get("position") != "rotary":
        said = [warning for warning in said if not warning.startswith("Both `max_new_tokens`")]
    report.equal(part, f"{name}: warnings", said, [])
    report.equal(part, f"{name}: keys that are missing or unexpected", answer["keys"], [])
    report.equal(part, f"{name}: ids of the prompt", answer["prompt_ids"], trained.prompt_ids)
    report.holds(part, f"{name}: no token_type_ids", "token_type_ids" not in answer["fields"], str(answer["fields"]))
    if answer["unknown"] is not None:
        report.holds(part, f"{name}: an unknown character is an error", "error" in answer["unknown"], str(answer["unknown"]))


def past_the_block(exports, environments):
    """A model of 32 learned positions: the folder itself ends a text in time."""
    trained = short(exports)
    if not exports.export(trained, "hf", "GPT2LMHeadModel"):
        return
    for version, python in (("5", environments.torch()), ("4", environments.transformers_4())):
        asked = job(exports, trained, trained.folders["hf"], f"short{version}", beyond=True)
        (answer,) = exports.ask(python, "transformers_side", [asked])
        exports.compare(f"transformers {version}", trained, answer, asked["out"])
        ended = answer.get("beyond", {})
        fits = "text" in ended and len(ended["text"]) <= trained.block
        exports.report.holds(f"transformers {version}", "block of 32: a text without a length ends inside it", fits, str(ended)[:300])


def short(exports):
    """big-0.2m as it is published, but for the time that it takes."""
    if "block-32" not in exports.trained:
        run = exports.work / "runs" / "block-32"
        shape = {"preset": "big-0.2m", "block_size": 32, "n_layer": 4, "n_embd": 64, "max_iters": exports.steps, "eval_interval": exports.steps}
        exports.kinglet.train(run, exports.work / "text.txt", **shape)
        exports.trained["block-32"] = exports.known("block-32", run, SHAPES["published"], prompt="mo ka", tokens=27)
    return exports.trained["block-32"]


# ---- PyTorch


def pytorch(exports, environments):
    """The lecture's and nanoGPT's own code loads what was written for it."""
    lecture, nano = exports.train("published", SHAPES["published"]), exports.train("nanogpt", SHAPES["nanogpt"])
    jobs, of = [], []
    for trained, form, kind in ((lecture, "pth", "lecture"), (nano, "nanogpt", "nanogpt")):
        folder = exports.export(trained, form, kind)
        if folder is None:
            continue
        file = next((path for path in sorted(folder.iterdir()) if path.suffix in (".pth", ".pt")), None)
        if file is None:
            exports.report.failed(f"export {form}", trained.name, f"no .pth or .pt in {sorted(folder.iterdir())}")
            continue
        config = exports.kinglet.config(trained.run)
        sizes = [trained.vocab, trained.block, config["n_layer"], config["n_head"], config["n_embd"]]
        more = {"kind": kind, "file": str(file), "sizes": sizes, "scale": config["attention_scale"], "meta": str(folder / "meta.pkl")}
        jobs.append(job(exports, trained, folder, kind, **more))
        of.append(trained)
    for trained, asked, answer in zip(of, jobs, exports.ask(environments.torch(), "torch_side", jobs), strict=True):
        exports.compare(f"PyTorch {asked['kind']}", trained, answer, asked["out"])


# ---- ONNX by optimum and by transformers.js


def optimum(exports, environments, names):
    chosen = [exports.train(name, SHAPES[name]) for name in names]
    chosen = [t for t in chosen if exports.export(t, "onnx", "any")]
    jobs = [job(exports, trained, trained.folders["onnx"], "optimum") for trained in chosen]
    answers = exports.ask(environments.transformers_4(), "optimum_side", jobs)
    for trained, asked, answer in zip(chosen, jobs, answers, strict=True):
        exports.compare("optimum", trained, answer, asked["out"])


def transformers_js(exports, environments, names):
    modules = environments.transformers_js()
    chosen = [exports.train(name, SHAPES[name]) for name in names]
    chosen = [t for t in chosen if exports.export(t, "onnx", "any")]
    jobs = [job(exports, trained, trained.folders["onnx"], "js", strings=[trained.prompt]) for trained in chosen]

    def node(questions, answers):
        _, environment = command("node", "x")
        script = Path(__file__).parent / "transformers_js.mjs"
        return ["node", str(script), str(questions), str(answers)], environment | {"NODE_MODULES": str(modules)}

    for trained, answer in zip(chosen, exports.ask(node, "transformers_js", jobs), strict=True):
        exports.compare("transformers.js", trained, answer, None)
        if "failed" not in answer:
            exports.report.equal("transformers.js", f"{trained.name}: ids of the prompt", answer["ids"][0], trained.prompt_ids)


# ---- round trips


def round_trips(exports, forms):
    """Out and in again: the same bits where the chain is empty, else what the export said."""
    same = {"hf": "llama", "safetensors": "nanogpt", "pth": "published", "nanogpt": "nanogpt", "gguf": "qwen2"}
    for form, name in same.items():
        if form not in forms:
            continue
        trained = exports.train(name, SHAPES[name])
        folder = exports.export(trained, form, "any")
        if folder is None:
            continue
        back = exports.work / "back" / f"{name}-{form}"
        if back.exists():
            continue
        try:
            exports.kinglet("import", importable(folder, form), "--out", back, *tokenizer_options(exports, trained, folder, form))
        except Failed as error:
            exports.report.failed("round trip", f"{form} of {name}", str(error)[:500])
            continue
        before, after = exports.kinglet.weights(trained.run), exports.kinglet.weights(back)
        differ = sorted(set(before) ^ set(after)) + [key for key in before if key in after and not same_bits(before[key], after[key])]
        exports.report.equal("round trip", f"{form} of {name}: tensors that differ in a bit", differ, [])
        ours = exports.kinglet.logits(back, trained.lists)
        exports.report.most("round trip", f"{form} of {name}: log-probabilities", largest_difference(trained.logits, ours), BOUND)


def importable(folder, form):
    """The file of an export that an import takes."""
    endings = {"pth": (".pth", ".pt"), "nanogpt": (".pt",), "gguf": (".gguf",), "safetensors": (".safetensors",)}
    if form not in endings:
        return folder
    return next(path for path in sorted(folder.iterdir()) if path.suffix in endings[form])


def tokenizer_options(exports, trained, folder, form):
    if form == "nanogpt":
        return ["--tokenizer", folder / "meta.pkl"]
    if form in ("pth", "safetensors"):
        options = ["--tokenizer", trained.run / "tokenizer.json"]
        config = exports.kinglet.config(trained.run)
        options += ["--attention-scale", config["attention_scale"]]
        options += ["--n-head", config["n_head"]] if form == "safetensors" else []
        return options
    return []


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


# ---- adapters


def adapters(exports, environments):
    """kinglet's adapter in PEFT, PEFT's in kinglet, and merged."""
    report, kinglet = exports.report, exports.kinglet
    for name in ("llama", "nanogpt"):
        trained = exports.train(name, SHAPES[name])
        base = exports.export(trained, "hf", trained.shape.hf)
        if base is None:
            continue
        tuned = exports.work / "runs" / f"{name}-lora"
        kinglet("finetune", trained.run, exports.work / "text.txt", "--lora", 4, "--out", tuned, "-q", "--set", "max_iters=20",
                "--set", "eval_interval=20", "--set", "learning_rate=0.01")  # fmt: skip
        known = exports.known(f"{name}-lora", tuned, trained.shape)
        # The base must be told from what was tuned, or the checks below would hold for an adapter that does nothing.
        report.holds("PEFT", f"{name}: the adapter changes the model", largest_difference(known.logits, trained.logits) > 1e-2)
        folder = exports.export(known, "peft", "any")
        if folder is not None:
            asked = job(exports, known, folder, "peft", kind="peft", base=str(base))
            (answer,) = exports.ask(environments.torch(), "torch_side", [asked])
            exports.compare("PEFT", known, answer, asked["out"])
        merged = exports.export(known, "hf", trained.shape.hf)
        if merged is not None:
            asked = job(exports, known, merged, "merged")
            (answer,) = exports.ask(environments.torch(), "transformers_side", [asked])
            exports.compare("merged adapter in transformers 5", known, answer, asked["out"])
        of_peft(exports, environments, trained, base)


def of_peft(exports, environments, trained, base):
    """An adapter that PEFT wrote, imported."""
    gpt2 = trained.shape.hf == "GPT2LMHeadModel"
    folder = exports.work / f"{trained.name}-peft"
    targets = ["c_attn", "c_fc"] if gpt2 else ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
    asked = job(exports, trained, folder, "of-peft", kind="adapters", base=str(base), targets=targets, conv1d=gpt2)
    (answer,) = exports.ask(environments.torch(), "torch_side", [asked])
    if "failed" in answer:
        exports.report.failed("PEFT", f"{trained.name}: writing an adapter", answer["failed"])
        return
    run = exports.work / "back" / f"{trained.name}-peft"
    try:
        exports.kinglet("import", folder, "--out", run)
        with np.load(asked["out"]) as saved:
            theirs = [saved[key] for key in saved]
        ours = exports.kinglet.logits(run, trained.lists)
        exports.report.most("PEFT", f"{trained.name}: an adapter of PEFT's, imported", largest_difference(ours, theirs), BOUND)
    except Failed as error:
        exports.report.failed("PEFT", f"{trained.name}: an adapter of PEFT's, imported", str(error)[:500])


# ---- time and memory


def large(exports, environments):
    """A model of 124M parameters: under 5 seconds, and under twice its size."""
    file, folder = exports.work / "large" / "ckpt.pt", exports.work / "large" / "gpt2"
    folder.mkdir(parents=True)
    asked = {"kind": "large", "file": str(file), "folder": str(folder)}
    (answer,) = exports.ask(environments.torch(), "torch_side", [asked])
    if "failed" in answer:
        exports.report.failed("124M", "making the models", answer["failed"])
        return
    vocabulary, endless = exports.work / "large" / "tokenizer.json", exports.work / "large" / "endless.json"
    made_up(vocabulary, 50257)
    made_up(endless, 50257, end=False)
    size = 4 * 124_475_904
    run, tokens = exports.work / "large" / "run", ["--tokenizer", vocabulary]
    steps = [("import of nanoGPT's ckpt.pt", ["import", file, "--out", run, *tokens]),
             ("import of transformers' folder", ["import", folder, "--out", f"{run}-hf", *tokens]),
             ("import without an end of text", ["import", folder, "--out", f"{run}-endless", "--tokenizer", endless])]  # fmt: skip
    # GPT-2's GELU is llama.cpp's, nanoGPT's is not.
    of = {"hf": run, "gguf": f"{run}-hf", "onnx": run, "nanogpt": run, "safetensors": run}
    steps += [(f"export to {form}", ["export", of[form], "--format", form, "--out", f"{run}-to-{form}"]) for form in of]
    # llama.cpp needs an end: the head gets a weight of its own and a token more, so this model is rewritten, and compared.
    steps.append(("export to gguf, rewritten", ["export", f"{run}-endless", "--format", "gguf", "--out", f"{run}-to-ended"]))
    for what, args in steps:
        try:
            seconds, peak = exports.kinglet.peak(*args)
            exports.report.most("124M", f"{what}: seconds", seconds, 5.0)
            exports.report.most("124M", f"{what}: memory, times its size", peak / size, 2.0)
        except (Failed, subprocess.CalledProcessError) as error:
            exports.report.failed("124M", what, str(error)[:500])


def made_up(path, size, end=True):
    """A tokenizer of so many tokens, by the library that everybody takes, with an end of text or without."""
    import tokenizers as tk

    alphabet = sorted(tk.pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*(["<|endoftext|>"] if end else []), *alphabet])}
    merges, tokens = [], list(alphabet)
    for a in alphabet:
        for b in alphabet:
            if len(vocab) < size:
                merges.append((a, b))
                vocab[a + b] = len(vocab)
    assert len(vocab) == size, (len(vocab), len(tokens))
    inner = tk.Tokenizer(tk.models.BPE(vocab, merges))
    if end:
        inner.add_special_tokens(["<|endoftext|>"])
    inner.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tk.decoders.ByteLevel()
    inner.save(str(path))
