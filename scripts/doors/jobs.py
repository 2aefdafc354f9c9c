"""How a program with packages of its own answers questions: `python -m scripts.doors.NAME JOBS.json ANSWERS.json`."""

import json
import sys
import traceback
from pathlib import Path


def attempt(answer, job):
    """The answer to a job, or what went wrong."""
    try:
        return answer(job)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-1500:]}


def answer_all(answer):
    """Reads the jobs that the command line names, and writes the answers."""
    jobs, answers = map(Path, sys.argv[1:])
    out = [attempt(answer, job) for job in json.loads(jobs.read_text(encoding="utf-8"))]
    answers.write_text(json.dumps(out), encoding="utf-8")
