"""Many small runs on ranks: the table and the files of one process, also when a rank is killed; and all that the cores can do."""

import os
import random
import signal
import statistics
import time

from ..doors.environments import Missing
from .processes import Started, send
from .program import bits, first_difference, settings

PART = "sweep"
RUNS, RANKS = 40, 4
# 2 x 5 settings with 4 seeds.
GRID = ["--grid", "n_layer=1,2", "--grid", "learning_rate=2e-4,5e-4,1e-3,2e-3,5e-3", "--seeds", "4"]
RUN = {"max_iters": 300, "eval_interval": 100, "eval_iters": 2, "sample_tokens": 10, "n_embd": 32, "n_head": 2, "block_size": 32,
       "batch_size": 16, "shards": 2}  # fmt: skip
# Runs of some seconds on a core, all alike: for throughput.
LONGER = {**RUN, "max_iters": 1500, "eval_interval": 500, "n_layer": 2}
# Of what independent processes do in the same time, one for each core.
THROUGHPUT, TIMES = 0.95, 3
# A rank on one core. Launchers bind each in a way of their own.
PIN = 'exec taskset -c $((${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}} % $0)) "$@"'


class Sweep:
    def __init__(self, kinglet, work, report, mpis, args):
        self.kinglet, self.work, self.report = kinglet, work, report
        families = {mpi.is_open_mpi: mpi for mpi in reversed(mpis)}
        self.mpis = [mpi for mpi in mpis if mpi in families.values()]
        self.random = random.Random(args.random)

    def all(self):
        if not self.mpis:
            raise Missing("there is no MPI")
        alone = self.work / "alone"
        done = self.kinglet.alone(*self.words(alone), seconds=900)
        if done.status != 0:
            raise RuntimeError(f"one process: {done}")
        self.wanted = files(alone)
        for mpi in self.mpis:
            self.whole(mpi)
            self.killed(mpi)
        for mpi in self.mpis:
            self.throughput(mpi)

    def words(self, folder):
        return ["sweep", "builtin", "--quiet", "--threads", "1", "--out", folder, *GRID, *settings(**RUN)]

    def folder(self, name, mpi):
        return self.work / f"{name}-{''.join(filter(str.isalnum, mpi.name))}"

    def compare(self, what, folder):
        count = runs_that_ended(folder)
        unlike = f"{count} runs" if count != RUNS else first_difference(files(folder), self.wanted)
        self.report.add(PART, what, "different" if unlike else "the same table and files", "the same table and files", not unlike, unlike[:600])

    def whole(self, mpi):
        """Nothing happens to it."""
        what, folder = f"{mpi}: {RUNS} runs on {RANKS} ranks", self.folder("whole", mpi)
        done = self.kinglet.ranks(mpi, RANKS, *self.words(folder), seconds=600)
        if done.status != 0:
            self.report.failed(PART, what, repr(done))
            return
        self.compare(what, folder)

    def killed(self, mpi):
        """A rank is killed in the middle. Open MPI goes on if it is told to; MPICH ends the ranks of a host, and the sweep is resumed."""
        what, folder = f"{mpi}: {RUNS} runs on {RANKS} ranks, one killed", self.folder("killed", mpi)
        options = ["--enable-recovery"] if mpi.is_open_mpi else []
        started = self.kinglet.start(mpi, RANKS, *self.words(folder), options=options)
        found = started.wait_for_ranks(self.kinglet.binary, RANKS)
        until = time.monotonic() + 300
        while runs_that_ended(folder) < RUNS // 2 and started.process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        hit = send(found[self.random.randrange(1, RANKS)], signal.SIGKILL)
        done, before = started.wait(600), runs_that_ended(folder)
        if not hit or done.late:
            self.report.failed(PART, what, f"nobody was killed; {done}" if not hit else repr(done))
            return
        if mpi.is_open_mpi:
            self.report.holds(PART, f"{what}: a warning, and it goes on", before == RUNS and "is lost" in done.err, repr(done))
        else:
            ok = done.status != 0 and RUNS // 2 <= before < RUNS
            self.report.add(PART, f"{what}: the launcher", f"status {done.status}, {before} runs", "fails, the runs so far", ok, done.said[-600:])
            done = self.kinglet.ranks(mpi, RANKS - 1, "sweep", "--quiet", "--threads", "1", "--resume", "--out", folder, seconds=600)
            if done.status != 0:
                self.report.failed(PART, f"{what}, resumed on {RANKS - 1}", repr(done))
                return
            what = f"{what}, resumed on {RANKS - 1}"
        self.compare(what, folder)

    def throughput(self, mpi):
        """Ranks that are pinned to the cores there are, beside as many processes that know nothing of each other."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            self.report.skip(PART, f"{mpi}: throughput", "this machine has one core")
            return
        machine, ranks = [], []
        for i in range(TIMES):
            machine.append(self.processes(cores, self.folder(f"machine-{i}", mpi)))
            ranks.append(self.pinned(mpi, cores, self.folder(f"pinned-{i}", mpi)))
        ratio = statistics.median(alone / shared for alone, shared in zip(machine, ranks, strict=True))
        what = f"{mpi}: throughput of {len(cores)} pinned ranks beside {len(cores)} processes, {RUNS // len(cores) * len(cores)} runs"
        seconds = [", ".join(f"{s:.1f}" for s in each) for each in (machine, ranks)]
        self.report.add(PART, what, ratio, f"at least {THROUGHPUT}", ratio >= THROUGHPUT,
                        f"the median of {TIMES} pairs: {seconds[0]} s; {seconds[1]} s")  # fmt: skip

    def seeds(self, folder, count, first):
        return ["sweep", "builtin", "--quiet", "--threads", "1", "--out", folder, "--grid", "dropout=0", "--seeds", count, "--seed", first,
                *settings(**LONGER)]  # fmt: skip

    def processes(self, cores, folder):
        """The seconds of a sweep in each core's own process, all at once."""
        begun = time.monotonic()
        each = []
        for i, core in enumerate(cores):
            count = RUNS // len(cores)
            words = self.seeds(folder.with_name(f"{folder.name}-{core}"), count, 1 + i * count)
            each.append(Started(["taskset", "-c", core, self.kinglet.binary, *words], self.kinglet.environment))
        for started in each:
            must_end_well(started.wait(600))
        return time.monotonic() - begun

    def pinned(self, mpi, cores, folder):
        """The seconds of the same runs, which ranks share."""
        words = ["sh", "-c", PIN, len(cores), self.kinglet.binary, *self.seeds(folder, RUNS // len(cores) * len(cores), 1)]
        begun = time.monotonic()
        must_end_well(Started(mpi.words(len(cores), words), self.kinglet.environment | mpi.environment).wait(600))
        return time.monotonic() - begun


def must_end_well(done):
    if done.status != 0:
        raise RuntimeError(repr(done))


def runs_that_ended(folder):
    """How many runs of a sweep are complete."""
    metrics = (folder / "metrics.jsonl" for folder in folder.glob("*/"))
    return sum('{"event":"done"' in path.read_text(encoding="utf-8") for path in metrics if path.exists())


def files(folder):
    """All of a sweep that may not depend on who trained it: of the page, all but the seconds."""
    page = [line.rsplit("|", 2)[0] for line in (folder / "sweep.md").read_text(encoding="utf-8").splitlines()]
    return bits(folder) | {"sweep.md": page}
