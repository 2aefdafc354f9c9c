"""Exported graphs in onnxruntime, fed as runtimes feed them: at once, token by token through the cache, in uneven pieces."""

import json
from pathlib import Path

import numpy as np

from .exports import BOUND, Failed, largest_difference
from .shapes import SHAPES

PIECES = (5, 1, 1, 10, 15)


def check(exports, names):
    """Every shape, since a graph has a form for each; the phone's and the small ones for one."""
    import onnx

    report = exports.report
    for name in names:
        trained = exports.train(name, SHAPES[name])
        folder = exports.export(trained, "onnx", "any")
        if folder is None:
            continue
        try:
            file = graph(folder)
            onnx.checker.check_model(str(file), full_check=True)
            model = Model(file)
        except Exception as error:
            report.failed("onnxruntime", name, f"{type(error).__name__}: {error}"[:600])
            continue
        report.most("onnxruntime", f"{name}: log-probabilities, at once", difference(trained, model.at_once), BOUND)
        report.most("onnxruntime", f"{name}: log-probabilities, in pieces", difference(trained, model.in_pieces), BOUND)
        written = model.greedy(trained.prompt_ids, len(trained.ids))
        report.equal("onnxruntime", f"{name}: greedy ids of {len(trained.ids)} tokens", written, trained.ids)
        description(report, name, folder, trained)
    variants(exports)


def difference(trained, compute):
    return largest_difference(trained.logits, [compute(ids) for ids in trained.lists])


def graph(folder):
    files = sorted(folder.rglob("*.onnx"))
    return next((file for file in files if file.name == "model.onnx"), files[0])


def description(report, name, folder, trained):
    """What transformers.js and optimum look for beside the graph."""
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        report.holds("onnxruntime", f"{name}: {file} is at the top", (folder / file).exists())
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else {}
    end = config.get("eos_token_id")
    fits = end is None or all(0 <= i < trained.vocab for i in np.atleast_1d(end))
    report.holds("onnxruntime", f"{name}: the end token is in the vocabulary", fits, str(end))


def variants(exports):
    """`--ids int32`, `--static`, 8 bits."""
    report, name = exports.report, "kinglet"
    trained = exports.train(name, SHAPES[name])
    for options in (("--ids", "int32"), ("--static",), ("--ids", "int32", "--static")):
        folder = exports.export(trained, "onnx", "any", *options)
        if folder is None:
            continue
        model, what = Model(graph(folder)), f"{name} {' '.join(options)}"
        if "int32" in options:
            kinds = {i.type for i in model.session.get_inputs() if i.name == "input_ids"}
            report.equal("onnxruntime", f"{what}: type of the ids", sorted(kinds), ["tensor(int32)"])
        if "--static" in options:
            shapes = [i.shape for i in model.session.get_inputs()]
            report.holds("onnxruntime", f"{what}: every length is fixed", all(isinstance(n, int) for s in shapes for n in s), str(shapes))
            length = next(i.shape[-1] for i in model.session.get_inputs() if i.name == "input_ids")
            ids = trained.lists[0][:length]
            ours = exports.kinglet.logits(trained.run, [ids])
            report.most("onnxruntime", f"{what}: log-probabilities", largest_difference(ours, [model.at_once(ids)]), BOUND)
        else:
            report.most("onnxruntime", f"{what}: log-probabilities", difference(trained, model.in_pieces), BOUND)
    eight_bits(exports, trained)


def eight_bits(exports, trained):
    """Weights in 8 bits are another model; how much another is said, and it must stay small."""
    report = exports.report
    try:
        folder = exports.export(trained, "onnx", "any", "--scheme", "w8")
        if folder is None:
            return
        model = Model(next(file for file in sorted(folder.rglob("*.onnx"))))
        from .program import divergence

        kl = divergence(trained.logits, [model.at_once(ids) for ids in trained.lists])
        report.most("onnxruntime", f"{trained.name} --scheme w8: KL divergence", kl, 5e-3)
    except (Failed, StopIteration) as error:
        report.failed("onnxruntime", f"{trained.name} --scheme w8", str(error))


class Model:
    """A graph with a cache, or without one."""

    def __init__(self, file, settings=()):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        for key in settings:
            options.add_session_config_entry(key, settings[key])
        self.session = onnxruntime.InferenceSession(str(Path(file)), options, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]

    def empty(self):
        return {name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for name, i in self.inputs.items() if name.startswith("past")}

    def feed(self, ids, position, past):
        """The logits of the next ids behind `position` others, and the cache behind them."""
        kind = np.int32 if self.inputs["input_ids"].type == "tensor(int32)" else np.int64
        given = {
            "input_ids": np.array([ids], kind),
            "attention_mask": np.ones((1, position + len(ids)), kind),
            "position_ids": np.arange(position, position + len(ids), dtype=kind)[None],
        }
        given = {name: x for name, x in given.items() if name in self.inputs}
        named = dict(zip(self.outputs, self.session.run(None, given | past), strict=True))
        return named.pop("logits")[0], {name.replace("present", "past_key_values"): x for name, x in named.items()}

    def at_once(self, ids):
        return self.feed(ids, 0, self.empty())[0]

    def in_pieces(self, ids):
        past, at, rows = self.empty(), 0, []
        while at < len(ids):
            piece = ids[at : at + PIECES[len(rows) % len(PIECES)]]
            logits, past = self.feed(piece, at, past)
            rows.append(logits)
            at += len(piece)
        return np.concatenate(rows)

    def greedy(self, prompt, tokens):
        past, at, ids, made = self.empty(), 0, list(prompt), []
        for _ in range(tokens):
            logits, past = self.feed(ids, at, past)
            at += len(ids)
            ids = [int(logits[-1].argmax())]
            made += ids
        return made
