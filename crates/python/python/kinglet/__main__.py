"""The command `kinglet`, also as `python -m kinglet`."""

import os
import sys

from . import _kinglet


def main():
    """Runs the command with the words of this process, and ends with its status."""
    program = os.path.abspath(sys.argv[0])
    # Python's own handler would wait until the command returns.
    sys.exit(_kinglet.command([program, *sys.argv[1:]], _kinglet.__file__))


if __name__ == "__main__":
    main()
