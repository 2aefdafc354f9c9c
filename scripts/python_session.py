"""A Python that runs the blocks of a page one after the other, as a reader would do it who types them.

It reads objects of JSON from standard input, one a line, with `code` and `place`, and answers each with an object on standard output that
says whether it raised an exception. What the code prints goes to the file that is named by the only argument.
"""

import json
import os
import runpy
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path


def main():
    # The folder of this file would hide packages that have the names of its scripts.
    sys.path.pop(0)
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    printed = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.path.insert(0, "")
    if find_spec("kinglet"):
        runpy.run_path(str(Path(__file__).with_name("shorter.py")))["shorten"]()
    names = {"__name__": "__main__"}
    for line in requests:
        request = json.loads(line)
        raised = False
        try:
            exec(compile(request["code"], request["place"], "exec"), names)
        except BaseException:
            traceback.print_exc()
            raised = True
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(json.dumps({"raised": raised}) + "\n")
        answers.flush()


main()
