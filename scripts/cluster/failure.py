"""Ranks that are killed or hang, links that fail, signals: each run ends soon, with one message, and goes on to the same bits."""

import hashlib
import random
import signal
import time

from ..doors.environments import Missing
from .machines import Machines
from .processes import Started, are_gone, send
from .program import bits, first_difference, last_step, litter, settings

PART = "failure"
# Many short steps and many checkpoints, so that kills hit both.
KILLED = {"max_iters": 6000, "eval_interval": 20, "eval_iters": 2, "log_interval": 5, "sample_tokens": 5, "n_layer": 2, "n_embd": 32,
          "n_head": 2, "block_size": 32, "batch_size": 12, "dropout": 0.1, "shards": 4, "keep_last": 2}  # fmt: skip
# Steps of some tenths of a second: what fails, fails within one.
LONG = {**KILLED, "max_iters": 100, "eval_interval": 1000, "n_embd": 128, "n_head": 4, "n_layer": 4, "batch_size": 16, "block_size": 128}
# Seconds that all may take to end after a rank was killed, and after one is silent.
END = 10
PATIENCE = 20
# When a rank is killed: at random within these seconds after all ranks are there.
WITHIN = 2.5


class Failure:
    def __init__(self, kinglet, work, report, mpis, args):
        self.kinglet, self.work, self.report = kinglet, work, report
        # One of each family.
        families = {mpi.is_open_mpi: mpi for mpi in reversed(mpis)}
        self.mpis = [mpi for mpi in mpis if mpi in families.values()]
        self.kills, self.random = args.kills, random.Random(args.random)
        self.wanted = {}

    def all(self):
        if not self.mpis:
            raise Missing("there is no MPI")
        self.killed()
        for mpi in self.mpis:
            for name, whom in (("SIGTERM", None), ("SIGINT", None), ("SIGTERM", 1), ("SIGTERM", 0)):
                self.signalled(mpi, getattr(signal, name), whom)
            self.stopped(mpi)
        with Machines(3, self.work) as machines:
            for mpi in self.mpis:
                self.unplugged(mpi, machines, 0)
                self.unplugged(mpi, machines, 2)

    def train(self, folder, keys):
        """Begins a run, or goes on with it."""
        if (folder / "config.toml").exists():
            return ["train", "--quiet", "--resume", "--out", folder]
        return ["train", "--quiet", "--out", folder, *settings(**keys)]

    def bits_alone(self, keys):
        """What a run ends with that nothing happens to."""
        name = f"alone-{hashlib.sha256(repr(keys).encode()).hexdigest()[:8]}"
        if name not in self.wanted:
            folder = self.work / name
            done = self.kinglet.alone(*self.train(folder, keys), seconds=600)
            if done.status != 0:
                raise RuntimeError(f"one process: {done}")
            self.wanted[name] = weights(folder)
        return self.wanted[name]

    def ends_with_the_bits(self, what, mpi, ranks, folder, keys):
        if not is_complete(folder):
            done = self.kinglet.ranks(mpi, ranks, *self.train(folder, keys), seconds=600)
            if done.status != 0:
                return self.report.failed(PART, what, repr(done))
        unlike = first_difference(weights(folder), self.bits_alone(keys)) or ", ".join(litter(folder))
        return self.report.add(PART, what, "different" if unlike else "the same bits", "the same bits", not unlike, unlike[:600])

    def killed(self):
        """SIGKILL of a random rank at a random time, again and again; each time another number of ranks goes on."""
        faults, slowest, runs, kills, ranks, during = [], 0.0, 0, 0, 1, 0
        while kills < self.kills:
            keys = {**KILLED, "seed": runs + 1}
            folder = self.work / f"killed-{runs}"
            while kills < self.kills and not is_complete(folder):
                mpi = self.mpis[kills % len(self.mpis)]
                ranks = self.random.choice([n for n in (1, 2, 3, 4) if n != ranks])
                fault, seconds, hit = self.kill_one(mpi, ranks, folder, keys)
                faults += [f"kill {kills}, {mpi}, {ranks} ranks: {fault}"] if fault else []
                slowest, kills, during = max(slowest, seconds), kills + hit, during + (hit and last_step(folder) > 0)
            ranks = self.random.choice([n for n in (1, 2, 3, 4) if n != ranks])
            mpi = self.mpis[runs % len(self.mpis)]
            self.ends_with_the_bits(f"run {runs}, killed {kills} times so far, ended by {ranks} ranks of {mpi}", mpi, ranks, folder, keys)
            runs += 1
        self.report.most(PART, f"{kills} kills: seconds until all had ended", slowest, END)
        note = " | ".join(faults)[:3000]
        self.report.add(PART, f"{kills} kills, {during} after the first checkpoint: faults", len(faults), 0, not faults, note)

    def kill_one(self, mpi, ranks, folder, keys):
        """What is wrong after a kill, the seconds until all had ended, and whether a rank was hit."""
        before = last_step(folder)
        started = self.kinglet.start(mpi, ranks, *self.train(folder, keys))
        found = started.wait_for_ranks(self.kinglet.binary, ranks)
        time.sleep(self.random.uniform(0, WITHIN))
        whom = self.random.randrange(ranks)
        since = time.monotonic()
        hit = whom in found and started.process.poll() is None and send(found[whom], signal.SIGKILL)
        done = started.wait(time.monotonic() - started.begun + (END if hit else 120))
        seconds = time.monotonic() - since
        if not hit:
            return "" if done.status == 0 else f"it was not killed, but {done}", 0.0, False
        faults = [f"it went on: {done}"] if done.late else []
        faults += [] if are_gone(found.values(), 2) else ["ranks are left"]
        faults += ["status 0"] if done.status == 0 and not is_complete(folder) else []
        faults += [f"{len(done.errors())} messages: {done.said}"] if len(done.errors()) > 1 or "panicked" in done.said else []
        faults += [f"from step {before} back to {last_step(folder)}"] if last_step(folder) < before else []
        faults += damaged(folder)
        return "; ".join(faults), seconds, True

    def signalled(self, mpi, number, whom):
        """A signal to the launcher, or to one rank: a checkpoint where it stopped, and 130."""
        name = f"{signal.Signals(number).name} to {'the launcher' if whom is None else f'rank {whom}'}"
        what = f"{mpi}: {name}"
        folder = self.work / "".join(filter(str.isalnum, what))
        started = self.kinglet.start(mpi, 3, *self.train(folder, LONG))
        found = started.wait_for_ranks(self.kinglet.binary, 3)
        self.until_it_trains(started, folder)
        since = time.monotonic()
        send(started.process.pid if whom is None else found[whom], number)
        done = started.wait(time.monotonic() - started.begun + 2 * END)
        seconds, step = time.monotonic() - since, last_step(folder)
        # mpirun of Open MPI 4 has its own status for a signal to itself, whatever its ranks end with.
        status = 1 if mpi.is_open_mpi and whom is None else 130
        saved = f"stopped at step {step};" in done.out
        ok = done.status in (status, 130) and saved and 0 < step < LONG["max_iters"] and not done.errors() and are_gone(found.values(), 2)
        measured = f"status {done.status}, checkpoint at step {step}, {seconds:.1f} s"
        self.report.add(PART, what, measured, f"status {status}, a checkpoint", ok, "" if ok else done.said[-1500:])
        self.ends_with_the_bits(f"{what}, continued by 2 ranks", mpi, 2, folder, LONG)

    def until_it_trains(self, started, folder):
        """Waits until steps are being made."""
        until = time.monotonic() + 30
        while started.process.poll() is None and time.monotonic() < until:
            if (folder / "metrics.jsonl").exists() and '"step":5,' in (folder / "metrics.jsonl").read_text(encoding="utf-8"):
                break
            time.sleep(0.02)
        time.sleep(self.random.uniform(0, 1))

    def stopped(self, mpi):
        """A rank that hangs: the others' watchdog ends all."""
        folder = self.work / f"stopped-{'' .join(filter(str.isalnum, mpi.name))}"
        started = self.kinglet.start(mpi, 3, *self.train(folder, LONG), env={"KINGLET_RANK_TIMEOUT": str(PATIENCE)})
        found = started.wait_for_ranks(self.kinglet.binary, 3)
        self.until_it_trains(started, folder)
        whom = self.random.randrange(3)
        send(found[whom], signal.SIGSTOP)
        self.ended_by_watchdog(f"{mpi}: SIGSTOP of rank {whom}", started, found, folder)
        self.ends_with_the_bits(f"{mpi}: SIGSTOP, continued by 4 ranks", mpi, 4, folder, LONG)

    def unplugged(self, mpi, machines, machine):
        """A link that is taken down within a step."""
        what = f"{mpi}: the link of machine {machine} taken down"
        folder = self.work / "".join(filter(str.isalnum, what))
        environment = {"KINGLET_RANK_TIMEOUT": str(PATIENCE)}
        started = Started(machines.launch(mpi, 3, [self.kinglet.binary, *self.train(folder, LONG)], environment))
        found = started.wait_for_ranks(self.kinglet.binary, 3)
        self.until_it_trains(started, folder)
        machines.link(machine, "down")
        try:
            self.ended_by_watchdog(what, started, found, folder)
        finally:
            machines.link(machine, "up")
            # The link is there at once, its carrier a moment later.
            time.sleep(2)
        self.ends_with_the_bits(f"{what}, continued by 1 rank", mpi, 1, folder, LONG)

    def ended_by_watchdog(self, what, started, found, folder):
        since = time.monotonic()
        gone = are_gone(found.values(), PATIENCE + END)
        seconds = time.monotonic() - since
        self.report.add(PART, f"{what}: seconds until all ranks had ended", seconds, PATIENCE, gone and seconds <= PATIENCE and len(found) == 3)
        waits = not started.ends_within(END / 2)
        if waits:
            # mpirun of Open MPI 4 waits for a machine that it cannot reach until TCP gives up, a quarter of an hour. Ranks do not.
            send(started.process.pid, signal.SIGTERM)
        done = started.wait(time.monotonic() - started.begun + END)
        ok = not done.late and done.status not in (0, None) and len(done.errors()) == 1 and not damaged(folder)
        ended = "had to be told to end" if waits else f"status {done.status}"
        measured = f"{ended}, {len(done.errors())} messages"
        bound = "fails, 1 messages"
        self.report.add(PART, f"{what}: the launcher", measured, bound, ok, "" if ok else f"{damaged(folder)} {done}")


def is_complete(folder):
    metrics = folder / "metrics.jsonl"
    return metrics.exists() and '{"event":"done"' in metrics.read_text(encoding="utf-8")


def weights(folder):
    """The bits of the last checkpoint, and of all losses."""
    found = bits(folder)
    last = f"checkpoints/step-{last_step(folder):06d}"
    return {name: value for name, value in found.items() if name.startswith((last, "metrics", "sample"))}


def damaged(folder):
    """Files of the newest checkpoint that are not what they were written as."""
    step = last_step(folder)
    if not step:
        return []
    checkpoint = folder / "checkpoints" / f"step-{step:06d}"
    sums = checkpoint / "SHA256SUMS"
    if not sums.exists():
        return [f"{checkpoint.name} has no checksums"]
    lines = [line.split(maxsplit=1) for line in sums.read_text(encoding="utf-8").splitlines()]
    return [f"{name} is damaged" for wanted, name in lines if hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() != wanted]
