"""Train, evaluate, sample and fine-tune small GPT language models on a CPU: fast, and exact to the bit."""

from ._about import keys, plan, prepare, presets
from ._command import command
from ._compare import Comparison, compare
from ._errors import ConfigError, DataError, DivergedError, Error, KingletWarning, NotFoundError, RunError
from ._kinglet import version as _version
from ._model import Generation, Model, Scores, load
from ._plot import Plot
from ._run import Run, runs
from ._tokenizer import Tokenizer
from ._tools import Exported, Made, compare_bits, evaluate, export, import_, merge, quantize
from ._train import finetune, resume, train
from ._tune import Tuning, tune

__version__ = _version()

__all__ = [
    "Comparison",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Error",
    "Exported",
    "Generation",
    "KingletWarning",
    "Made",
    "Model",
    "NotFoundError",
    "Plot",
    "Run",
    "RunError",
    "Scores",
    "Tokenizer",
    "Tuning",
    "command",
    "compare",
    "compare_bits",
    "evaluate",
    "export",
    "finetune",
    "import_",
    "keys",
    "load",
    "merge",
    "plan",
    "prepare",
    "presets",
    "quantize",
    "resume",
    "runs",
    "train",
    "tune",
]
