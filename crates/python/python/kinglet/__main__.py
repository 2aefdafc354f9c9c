"""The command `kinglet`, also as `python -m kinglet`."""

import os
import signal
import sys

from . import _kinglet


def main() -> None:
    """Runs the command with the words of this process, and ends with its status."""
    program = os.path.abspath(sys.argv[0])
    # Python's own handler would wait until the command returns. What was told to ignore it, as by nohup, goes on to.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_kinglet.command([program, *sys.argv[1:]], _kinglet.__file__))


if __name__ == "__main__":
    main()
