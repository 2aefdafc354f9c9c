"""kinglet itself: its commands, its models, its server."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import closing

from ..doors.words import words

# Names in /metrics.
RUNNING, OPEN = "kinglet_engine_running", [f"kinglet_engine_{how}" for how in ("running", "waiting", "held", "scoring")]
CANCELLED = 'kinglet_engine_ended_total{how="cancelled"}'

# The exit status of a server that a signal ended in good order, and of one that a second signal cut short.
ENDED, CUT_SHORT = 0, 130

SMALL = {"max_iters": 60, "eval_interval": 60, "eval_iters": 2, "batch_size": 8, "block_size": 64, "n_layer": 2, "n_head": 2,
         "n_embd": 32, "learning_rate": 0.003, "seed": 7}  # fmt: skip


class Failed(Exception):
    """A command that did not succeed; what it said."""


class Kinglet:
    def __init__(self, binary):
        self.binary = binary
        self.environment = {**os.environ, "KINGLET_NO_HISTORY": "1", "NO_COLOR": "1"}
        if not binary.exists():
            raise SystemExit(f"{binary} is not there: cargo build --release --bin kinglet --example serve_load")

    def __call__(self, *args):
        """The JSON lines that a command prints."""
        done = self.run(*args, "--json")
        return [json.loads(line) for line in done.splitlines() if line.startswith("{")]

    def run(self, *args):
        words = [str(self.binary), *map(str, args)]
        done = subprocess.run(words, capture_output=True, env=self.environment, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise Failed(f"{' '.join(words)}: {(done.stdout + done.stderr).decode(errors='replace')[-800:]}")
        return done.stdout.decode()

    def train(self, folder, data, *options, **settings):
        """A run; the settings are those of a small model unless there is a preset."""
        settings = settings if "--preset" in options else SMALL | settings
        args = ["train", data, "--out", folder, "-q", *options]
        for key, value in settings.items():
            args += ["--set", f"{key}={json.dumps(value) if isinstance(value, (list, bool)) else value}"]
        self(*args)
        return folder

    def sample(self, run, *options):
        """The samples of the command line, as it prints them in JSON."""
        return self("sample", run, *options)

    def offers(self):
        """The names of its commands."""
        done = subprocess.run([self.binary, "--help"], capture_output=True, text=True)
        return {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.split()}


def small_runs(kinglet, work):
    """A folder with runs of a text by characters (`text`), of one by bytes and pieces (`pieces`), of conversations (`chat`)."""
    runs = work / "runs"
    if runs.exists():
        return runs
    text = work / "text.txt"
    text.write_text(words(3000, 1), encoding="utf-8", newline="")
    # Characters of two to four bytes, which a token may cut.
    marks = "é ß 鳥 鳶 🐦 🪶 ".split(" ")
    wide = " ".join(word + marks[i % len(marks)] for i, word in enumerate(words(3000, 2).split()))
    (work / "wide.txt").write_text(wide, encoding="utf-8", newline="")
    chats = [{"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"I say {i}."}]} for i in range(200)]
    (work / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    kinglet.train(runs / "text", text, "--tokenizer", "char", position="rotary")
    kinglet.train(runs / "pieces", work / "wide.txt", "--tokenizer", "bpe:300")
    kinglet.train(runs / "chat", work / "chats.jsonl", position="rotary")
    return runs


class Server:
    """A running `kinglet serve`. Leaving it stops it, and looks at how it ended."""

    def __init__(self, kinglet, *paths, options=(), log=None, token=None):
        self.port, self.token, self.log = free_port(), token, log or paths[0].parent / "serve.log"
        words = [str(kinglet.binary), "serve", *map(str, paths), "--port", str(self.port), *map(str, options)]
        with self.log.open("ab") as out:
            self.began_at = out.tell()
            self.process = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=kinglet.environment)
        self.wait_until(self.is_up, 20, "the server answers")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            status = self.stop()
        finally:
            self.process.kill()
        if kind is None:
            assert status == ENDED, f"the server ended with {status}: {self.said()[-800:]}"
            assert "panicked" not in self.said(), self.said()[-800:]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def is_up(self):
        assert self.process.poll() is None, f"the server has ended: {self.said()[-800:]}"
        try:
            return self.ask("GET", "/health").status == 200
        except OSError:
            return False

    def stop(self):
        """Asks it to end, as a service manager does; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def said(self):
        return self.log.read_bytes()[self.began_at :].decode(errors="replace")

    def ask(self, method, path, body=None, timeout=60, **headers):
        """One request on a connection of its own; a body that is not bytes is sent as JSON."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def post(self, path, **body):
        return self.ask("POST", path, body)

    def open(self):
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def metrics(self):
        """Each value, by its name and labels."""
        lines = [line for line in self.ask("GET", "/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def metric(self, name):
        found = self.metrics()
        assert name in found, f"/metrics has no {name}, but {', '.join(found)}"
        return found[name]

    def open_texts(self):
        """Texts that have begun or wait, whoever reads them."""
        found = self.metrics()
        return sum(found[name] for name in OPEN)

    def is_idle(self):
        return self.open_texts() == 0

    def wait_until(self, truth, seconds, what):
        """The seconds until this holds."""
        begun = time.monotonic()
        while not truth():
            assert time.monotonic() - begun < seconds, f"after {seconds} s, not yet: {what}"
            time.sleep(0.002)
        return time.monotonic() - begun

    def memory(self):
        """Resident bytes."""
        return int(self.status("VmRSS")) * 1024

    def threads(self):
        return int(self.status("Threads"))

    def status(self, name):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as lines:
            return next(line.split()[1] for line in lines if line.startswith(name + ":"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


class Answer:
    def __init__(self, status, headers, data):
        self.status, self.headers, self.data = status, headers, data

    @property
    def text(self):
        return self.data.decode()

    @property
    def json(self):
        return json.loads(self.data)

    @property
    def error(self):
        return self.json["error"]

    def events(self):
        """The data of its events, each parsed; the last must be `[DONE]`."""
        parts = self.text.split("\n\n")
        assert parts[-1] == "" and all(part.startswith("data: ") for part in parts[:-1]), self.text[:300]
        data = [part.removeprefix("data: ") for part in parts[:-1]]
        assert data[-1] == "[DONE]", data[-1]
        return [json.loads(line) for line in data[:-1]]


def free_port():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
