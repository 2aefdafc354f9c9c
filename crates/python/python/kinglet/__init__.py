"""Train, evaluate, sample and fine-tune small GPT language models on a CPU: fast, and exact to the bit."""

from ._errors import ConfigError, DataError, DivergedError, Error, NotFoundError, RunError
from ._kinglet import version as _version

__version__ = _version()

__all__ = ["ConfigError", "DataError", "DivergedError", "Error", "NotFoundError", "RunError"]
