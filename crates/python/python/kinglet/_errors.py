"""What goes wrong. Each message says what, where, and what to do."""


class Error(Exception):
    """Any error of kinglet's own."""


class ConfigError(Error, ValueError):
    """A setting that is not allowed, or unknown."""


class DataError(Error, ValueError):
    """A text that cannot be used, or that a tokenizer cannot encode."""


class NotFoundError(Error, FileNotFoundError):
    """A file or folder that does not exist."""


class RunError(Error, OSError):
    """A file or folder that is damaged, locked or not what it should be, or that the system refuses."""


class DivergedError(Error, ArithmeticError):
    """Training diverged, and its settings say to stop. The last checkpoint is kept."""


class KingletWarning(UserWarning):
    """What a user should know, and nothing ends for: something is damaged, doubtful, or went wrong for now."""


# Tracebacks name them as users do.
for _class in (Error, ConfigError, DataError, NotFoundError, RunError, DivergedError, KingletWarning):
    _class.__module__ = "kinglet"
