"""Speeds: a release server, the load generator, other servers with the same models, in turn."""

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

from ..doors.words import words
from .environments import Missing, command
from .program import OPEN, Server, free_port

PART = "load"
ROUNDS = 5
# Tokens of a text in comparisons, and a block that it fits into.
TOKENS, BLOCK = 240, 256
# Steps of a training that the page shows: long enough for it to ask several times.
SHOWN = 600
SCRIPTS = Path(__file__).with_name("pages")
THREADS = len(os.sched_getaffinity(0))


class Load:
    def __init__(self, kinglet, work, report, environments):
        self.kinglet, self.report, self.environments = kinglet, report, environments
        self.generator = kinglet.binary.parent / "examples" / "serve_load"
        if not self.generator.exists():
            raise Missing(f"{self.generator}: cargo build --release --example serve_load")
        self.runs = work / "load"
        self.runs.mkdir(exist_ok=True)
        (work / "load.txt").write_text(words(30_000, 1), encoding="utf-8", newline="")
        # Weights of one update: they make texts as fast as others.
        self.models = {}
        for name, preset, block in (("big", "big-2.7m", BLOCK), ("kinglet", "kinglet-2.7m", None), ("wide", "kinglet-2.7m", BLOCK)):
            settings = {"max_iters": 1, "eval_iters": 1} | ({"block_size": block} if block else {})
            self.models[name] = kinglet.train(self.runs / name, work / "load.txt", "--preset", preset, **settings)

    def measure(self, address, model, only, *options):
        words = [self.generator, address, "--model", model, "--only", only, "--open", ",".join(OPEN), "--json", *options]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{only}: {done.stderr[-500:]}")
        return json.loads(done.stdout)

    def rate(self, address, model, streams, *options):
        """Tokens per second of so many streams, once."""
        rows = self.measure(address, model, "rates", "--streams", streams, "--tokens", TOKENS, "--rounds", 1, *options)["rates"]
        return rows[0]["tokens_per_s"]

    def all(self):
        with Server(self.kinglet, self.runs) as server:
            address = server.url.removeprefix("http://")
            self.against_sample(address)
            self.streams(address)
            self.first_tokens(address)
            self.gone(address)
            self.stalled(address)
            try:
                self.against_llama_cpp(address)
                self.against_onnx(address)
            except Missing as missing:
                self.report.skip(PART, "other servers", str(missing))
        self.beside_a_training()
        try:
            self.beside_the_page()
        except Missing as missing:
            self.report.skip(PART, "training beside the page", str(missing))

    def against_sample(self, address):
        """One stream within the block, through HTTP and by `kinglet sample`; starting the program is not counted."""
        seconds = {2: [], TOKENS: []}
        rates = []
        for _ in range(ROUNDS):
            for tokens, found in seconds.items():
                begun = time.monotonic()
                self.kinglet.run("sample", self.models["big"], "--prompt", "The ", "-n", tokens, "--num", 8, "-q")
                found.append(time.monotonic() - begun)
            rates.append(self.rate(address, "big", 1))
        spent = statistics.median(seconds[TOKENS]) - statistics.median(seconds[2])
        sample = 8 * (TOKENS - 2) / spent
        share = 100 * statistics.median(rates) / sample
        note = f"{statistics.median(rates):.0f} and {sample:.0f} tokens per second"
        self.least("one stream of big-2.7m within the block, % of `kinglet sample`", share, 95.0, note)

    def streams(self, address):
        found = self.measure(address, "kinglet", "rates", "--streams", "1,8,32,128", "--tokens", 400, "--rounds", ROUNDS)["rates"]
        rates = {row["streams"]: row["tokens_per_s"] for row in found}
        for streams, rate in rates.items():
            self.say(f"kinglet-2.7m, f32, {streams} streams: tokens per second", rate)
        self.least("32 streams of kinglet-2.7m, times one", rates[32] / rates[1], 8.0)

    def first_tokens(self, address):
        idle, busy = self.measure(address, "kinglet", "first", "--streams", "32", "--tokens", 300, "--probes", 100)["first"]
        self.report.most(PART, "first token, idle: p50, ms", idle["p50_ms"], 10.0)
        self.say("first token, idle: p99, ms", idle["p99_ms"])
        self.say("first token, 32 streams: p50, ms", busy["p50_ms"])
        self.report.most(PART, "first token, 32 streams: p99, ms", busy["p99_ms"], 150.0)

    def gone(self, address):
        for row in self.measure(address, "kinglet", "gone", "--rounds", 20)["gone"]:
            self.report.most(PART, f"client gone, {row['client']}: worst of 20, ms until nothing is written", row["worst_ms"], 50.0)

    def stalled(self, address):
        row = self.measure(address, "kinglet", "stalled", "--streams", "32", "--tokens", 400, "--rounds", ROUNDS)["stalled"][0]
        note = f"{row['one_stalled_tokens_per_s']:.0f} instead of {row['all_read_tokens_per_s']:.0f} tokens per second"
        self.report.most(PART, "one stalled reader of 32: the others lose, %", row["lost_percent"], 5.0, note)

    def against_llama_cpp(self, address):
        folder = self.export("gguf")
        python, port = self.environments.peers(), free_port()
        words, environment = command(python, "llama_server", next(folder.glob("*.gguf")), 32, BLOCK, port, THREADS)
        server = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            # Random weights end texts anywhere.
            whole = ["--extra", '{"ignore_eos": true}']
            assert server.stdout.readline().startswith("http"), "llama.cpp's server has not started"
            self.compare("llama.cpp's server", address, lambda streams: self.rate(f"127.0.0.1:{port}", "x", streams, *whole))
        finally:
            server.kill()
            server.wait()

    def against_onnx(self, address):
        file = next(self.export("onnx").rglob("model.onnx"))
        python = self.environments.peers()

        def rate(streams):
            words, environment = command(python, "onnx_loop", file, streams, TOKENS, THREADS)
            return float(subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout)

        self.compare("an ONNX Runtime loop", address, rate)

    def compare(self, name, address, rate):
        """The same model, in turn."""
        for streams in (1, 32):
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(self.rate(address, "wide", streams))
                theirs.append(rate(streams))
            ours, theirs = statistics.median(ours), statistics.median(theirs)
            note = f"{ours:.0f} and {theirs:.0f} tokens per second"
            self.least(f"kinglet-2.7m, block {BLOCK}, {streams} streams, times {name}", ours / theirs, 1.0, note)

    def export(self, form):
        folder = self.runs.parent / f"load-{form}"
        if not folder.exists():
            self.kinglet.run("export", self.models["wide"], "-F", form, "-o", folder, "-q")
        return folder

    def beside_a_training(self):
        """A training with an idle server beside it, which has written texts before, and without one."""
        alone, beside = [], []
        for i in range(ROUNDS):
            alone.append(self.training(f"alone-{i}"))
            with Server(self.kinglet, self.runs) as server:
                self.rate(server.url.removeprefix("http://"), "kinglet", 32)
                beside.append(self.training(f"beside-{i}"))
        slower = 100 * (statistics.median(beside) / statistics.median(alone) - 1)
        self.report.most(PART, "an idle server beside a training of big-2.7m: slower by, %", slower, 2.0)

    def beside_the_page(self):
        """A training whose curves are shown in a browser while it goes on, on the same processors, and without one."""
        modules, chromium = self.environments.browser()
        trainings = self.runs.parent / "trainings"
        alone, beside = [], []
        for i in range(ROUNDS):
            alone.append(self.training(f"unseen-{i}", SHOWN))
            with Server(self.kinglet, trainings) as server:
                words = ["node", SCRIPTS / "stay.mjs", modules, chromium, server.url]
                page = subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                assert page.stdout.readline() == "open\n", "the page is not shown"
                # It is to be open, and not being opened.
                time.sleep(5)
                beside.append(self.training(f"seen-{i}", SHOWN))
                page.stdin.close()
                page.wait(30)
        slower = 100 * (statistics.median(beside) / statistics.median(alone) - 1)
        self.report.most(PART, "the page of runs beside a training of big-2.7m that it shows: slower by, %", slower, 2.0)

    def training(self, name, steps=60):
        """Milliseconds of a step."""
        folder = self.runs.parent / "trainings" / name
        words = ["train", self.runs.parent / "load.txt", "--preset", "big-2.7m", "--out", folder, "-q"]
        for key, value in {"max_iters": steps, "eval_interval": steps, "eval_iters": 1}.items():
            words += ["--set", f"{key}={value}"]
        done = [line for line in self.kinglet(*words) if line.get("event") == "done"][-1]
        return done["ms_per_step"]

    def least(self, what, measured, bound, note=""):
        self.report.add(PART, what, measured, f"at least {bound:g}", measured >= bound, note)

    def say(self, what, measured):
        self.report.add(PART, what, measured, "", True)
