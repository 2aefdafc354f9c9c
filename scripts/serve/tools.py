"""What reads the server's own papers: Prometheus's checker and schemathesis."""

import os
import re
import subprocess
import sys

from .program import Server

# It ends its texts soon, however long they may be.
MODEL = "chat"


def promtool(c, environments, report):
    """promtool check metrics."""
    checker = environments.promtool()
    # Something of everything is to stand there.
    c.write(n=2)
    c.server.ask("GET", "/nothing")
    metrics = c.server.ask("GET", "/metrics")
    done = subprocess.run([checker, "check", "metrics"], input=metrics.data, capture_output=True)
    said = (done.stdout + done.stderr).decode().strip()
    report.add("promtool", "check metrics", said or "nothing to complain of", "nothing to complain of", done.returncode == 0 and not said)
    kind = metrics.headers["content-type"]
    report.holds("promtool", "the content type is that of the format", kind.startswith("text/plain") and "version=0.0.4" in kind, kind)


def schemathesis(c, report, examples):
    """Requests made from the specification: none may break the server, and every answer must be as it is specified."""
    # One model, so that no request needs to name it.
    with Server(c.kinglet, c.runs / MODEL) as server:
        fuzz(server, c.runs.parent, report, examples)


def fuzz(server, folder, report, examples):
    words = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    words += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
              "negative_data_rejection,unsupported_method"]  # fmt: skip
    words += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(examples), "--seed", "1", "--request-timeout", "60"]
    words += ["--suppress-health-check", "all"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "scripts.serve.schemathesis_hooks"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment)
    said = done.stdout + done.stderr
    note = "" if done.returncode == 0 else said[-6000:]
    cases = re.search(r"(\d+) generated", said)
    what = f"{examples} examples of each operation, {cases[1] if cases else 'no'} cases"
    report.add("schemathesis", what, f"exit status {done.returncode}", "exit status 0", done.returncode == 0 and cases, note)
