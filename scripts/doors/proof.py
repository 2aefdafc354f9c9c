"""The checks of `scripts/doors.py`, in the environment that has numpy and onnxruntime."""

import json
import shutil
import time
import traceback
from pathlib import Path

from .. import proving
from . import c_program, exports, gguf_files, graphs_in_onnxruntime, imports, interop, quantized
from .environments import Environments, Missing
from .program import Kinglet
from .report import Report
from .shapes import SHAPES
from .words import words

# Each part: whether it belongs to the light checks, the commands that it needs, and the method that does it.
PARTS = {
    "llama.cpp": (True, ["export"], "llama_cpp"),
    "onnxruntime": (True, ["export"], "onnxruntime"),
    "vocabulary": (True, ["export"], "vocabulary"),
    "c": (True, ["export"], "c"),
    "quantized": (True, ["quantize", "import", "export"], "quantized"),
    "import": (False, ["import"], "imports"),
    "blocks": (False, ["export"], "blocks"),
    "transformers": (False, ["export"], "transformers"),
    "pytorch": (False, ["export"], "pytorch"),
    "optimum": (False, ["export"], "optimum"),
    "transformers.js": (False, ["export"], "transformers_js"),
    "round-trip": (False, ["import", "export"], "round_trips"),
    "peft": (False, ["import", "export"], "adapters"),
    "124M": (False, ["import", "export"], "large"),
}
HF = [name for name, shape in SHAPES.items()]
# The graphs that optimum and transformers.js run: every tokenizer, every kind of position and norm, and what only ONNX takes.
GRAPHS = ["published", "gpt2", "nanogpt", "kinglet", "llama", "llama-gqa-tied", "qwen3", "softcap", "learned-rms"]


C_FILES = ["published", "llama", "gpt2", "kinglet", "qwen3"]


def main():
    args = proving.told().parse_args()
    begun = time.monotonic()
    report = Report(quiet=args.json)
    environments = Environments(args.cache)
    kinglet = Kinglet(args.binary, args.binary.parent / "examples" / "logits")
    with proving.folder_for_work(args, "kinglet-doors-") as work:
        fresh(work)
        texts(work)
        proof = Proof(args, kinglet, report, environments, work)
        for part, (light, *_) in PARTS.items():
            if wanted(args, part, light):
                proof.run(part)
            elif not args.only and args.light:
                report.skip(part, "all", "it is one of the heavy checks: without --light")
    if not args.json:
        print(", ".join(f"{part} {spent:.0f} s" for part, spent in proof.seconds.items()))
    proving.end(args, report, environments, begun, interop.write)


def wanted(args, part, light):
    """Parts are asked for by their whole names; any other name is of cases, in every part."""
    parts = [name for name in args.only if name in PARTS]
    if parts and part not in parts:
        return False
    return not (args.light and not light or args.heavy and light)


def fresh(work):
    """The folder is this run's alone; nothing of another one may be taken for a result."""
    if work.exists() and any(work.iterdir()):
        if not (work / "doors").exists():
            raise SystemExit(f"{work} is not empty, and not a folder of this program")
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    (work / "doors").touch()


def texts(work):
    text = words(4000, 1)
    assert sorted(set(text)).index(";") == 11, "the character that llama.cpp would end a text at"
    (work / "text.txt").write_text(text, encoding="utf-8", newline="")
    lines = [words(600, seed) for seed in range(2, 12)]
    (work / "documents.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")


class Proof:
    """What the parts share."""

    def __init__(self, args, kinglet, report, environments, work):
        self.args, self.kinglet, self.report, self.environments, self.work = args, kinglet, report, environments, work
        self.exports = exports.Exports(kinglet, report, work, 50 if args.light else 150)
        self.seconds = {}

    def run(self, part):
        """One part; what it needs and this machine or this build lacks is said."""
        _, commands, method = PARTS[part]
        for needed in commands:
            if needed not in self.kinglet.commands:
                self.report.failed(part, "all", f"this kinglet has no command {needed}")
                return
        begun = time.monotonic()
        try:
            getattr(self, method)()
        except Missing as missing:
            self.report.skip(part, "all", str(missing))
        except Exception:
            self.report.failed(part, "all", traceback.format_exc()[-1500:])
        self.seconds[part] = time.monotonic() - begun

    def names(self, names):
        """The cases that --only leaves, of these."""
        if self.args.light:
            names = [name for name in names if SHAPES[name].light]
        words = self.cases()
        return [name for name in names if not words or any(word in name for word in words)]

    def cases(self):
        return [name for name in self.args.only if name not in PARTS]

    def llama_cpp(self):
        gguf_files.check(self.exports, self.environments, self.names(HF))

    def onnxruntime(self):
        graphs_in_onnxruntime.check(self.exports, self.names(HF))

    def vocabulary(self):
        gguf_files.vocabularies(self.exports, self.environments, 1_000 if self.args.light else 50_000)

    def blocks(self):
        gguf_files.blocks(self.exports, self.environments)

    def c(self):
        # Learned positions are computed anew for every token past the block: with sanitizers, a long block takes minutes.
        if self.args.light:
            models = [exports.short(self.exports), self.exports.train("llama", SHAPES["llama"])]
        else:
            models = [self.exports.train(name, SHAPES[name]) for name in self.names(C_FILES)]
        c_program.check(self.exports, models)

    def quantized(self):
        quantized.check(self.exports, self.environments, self.names(HF))

    def imports(self):
        imports.check(self.kinglet, self.report, self.environments, self.work, self.cases())

    def transformers(self):
        exports.transformers(self.exports, self.environments, self.names(HF))
        exports.past_the_block(self.exports, self.environments)

    def pytorch(self):
        exports.pytorch(self.exports, self.environments)

    def optimum(self):
        exports.optimum(self.exports, self.environments, self.names(GRAPHS))

    def transformers_js(self):
        exports.transformers_js(self.exports, self.environments, self.names(GRAPHS))

    def round_trips(self):
        exports.round_trips(self.exports, ["hf", "safetensors", "pth", "nanogpt", "gguf"])

    def adapters(self):
        exports.adapters(self.exports, self.environments)

    def large(self):
        exports.large(self.exports, self.environments)


if __name__ == "__main__":
    main()
