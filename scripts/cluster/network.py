"""A step on machines with links of a known rate: as long as its computation and the chain's bytes take, and as `plan` says."""

import json
import statistics
import sys
import time

from ..doors.words import words
from .machines import Machines
from .processes import Started, run
from .program import bits, first_difference, last_step, settings

PART = "network"
MACHINES = 4
RATES = [100, 1000]
# Of a link's rate, what TCP carries: a packet of 1514 bytes has 1448 of data.
CARRIED = 1448 / 1514
# nanoGPT's model of characters with a quarter of its batch. What is not a step is short.
MODEL = {"batch_size": 16, "shards": 4, "dropout": 0.0, "eval_iters": 1, "eval_interval": 2, "max_iters": 8, "sample_tokens": 1,
         "log_interval": 1, "keep_last": 1}  # fmt: skip
PRESET = "shakespeare-char"
# A step beside computation and bytes; `plan` beside a step.
STEP, PLAN = 0.10, 0.20

RECEIVE = """
import socket, time
c, _ = socket.create_server(("", 5000)).accept()
n, begun = -len(c.recv(1 << 20)), time.monotonic()
n = 0
while b := c.recv(1 << 20):
    n += len(b)
print(n / (time.monotonic() - begun))
"""
SEND = "import socket, sys; socket.create_connection((sys.argv[1], 5000)).sendall(bytes(int(sys.argv[2])))"


class Network:
    def __init__(self, kinglet, work, report, mpis, args):
        self.kinglet, self.work, self.report = kinglet, work, report
        families = {mpi.is_open_mpi: mpi for mpi in reversed(mpis)}
        self.mpis = [mpi for mpi in mpis if mpi in families.values()]
        self.ranks, self.rates = args.ranks or [2, 3, 4], args.rate or RATES
        self.text = work / "text.txt"

    def all(self):
        with Machines(MACHINES, self.work) as machines:
            self.text.write_text(words(5000, seed=1), encoding="utf-8")
            one = self.alone()
            self.sharing = {}
            for rate in self.rates:
                machines.limit(rate)
                carried = self.stream(machines, rate)
                for ranks in self.ranks:
                    for mpi in self.mpis:
                        self.measure(machines, mpi, ranks, rate, carried, one)

    def train(self, folder):
        return ["train", self.text, "--quiet", "--threads", "1", "--preset", PRESET, "--out", folder, *settings(**MODEL)]

    def alone(self):
        """The seconds of a step of one process on one core."""
        folder = self.work / "alone"
        done = self.kinglet.alone(*self.train(folder), seconds=600)
        if done.status != 0:
            raise RuntimeError(f"one process: {done}")
        self.wanted = bits(folder)
        return step_s(folder)

    def shared(self, mpi, ranks):
        """The seconds of a step where so many ranks share the cores of this machine and its memory: computation alone."""
        if ranks not in self.sharing:
            folder = self.work / f"shared-{ranks}"
            done = self.kinglet.ranks(mpi, ranks, *self.train(folder), seconds=600)
            if done.status != 0:
                raise RuntimeError(f"{ranks} ranks: {done}")
            self.sharing[ranks] = step_s(folder)
        return self.sharing[ranks]

    def stream(self, machines, rate):
        """Bytes a second of one connection between two machines."""
        receiver = Started(machines.words(1, [sys.executable, "-c", RECEIVE]))
        time.sleep(0.5)
        run(machines.words(0, [sys.executable, "-c", SEND, machines.addresses[1], rate * 1_000_000 // 8 * 4]))
        carried = float(receiver.wait(60).out)
        nominal = rate * 1e6 / 8 * CARRIED
        what = f"{rate} Mbit/s: one connection carries, of the {CARRIED:.3f} that its packets leave"
        self.report.add(PART, what, carried / nominal, "0.97 to 1.03", 0.97 <= carried / nominal <= 1.03)
        return carried

    def measure(self, machines, mpi, ranks, rate, carried, one):
        what = f"{mpi}, {ranks} machines, {rate} Mbit/s"
        folder = self.work / f"{rate}-{ranks}-{''.join(filter(str.isalnum, mpi.name))}"
        # Two machines have a core each. More share the two that there are.
        computation = one / 2 if ranks == 2 else self.shared(self.mpis[0], ranks)
        before = machines.sent()
        done = Started(machines.launch(mpi, ranks, [self.kinglet.binary, *self.train(folder)])).wait(900)
        if done.status != 0:
            self.report.failed(PART, what, repr(done))
            return
        sent = [after - before for before, after in zip(before, machines.sent(), strict=True)]
        unlike = first_difference(bits(folder), self.wanted)
        self.report.add(PART, f"{what}: bits", "different" if unlike else "the same bits", "the same bits", not unlike, unlike[:600])
        # A machine in the middle sends gradients on and totals back.
        gradient = 4 * params(folder)
        way = gradient * (1 if ranks == 2 else 2)
        self.links_were_used(what, sent[ranks - 1], gradient * last_step(folder))
        measured, expected = step_s(folder), computation + way / carried
        note = f"step {measured:.3f} s; computation {computation:.3f} s, chain {way / carried:.3f} s"
        # The chain goes on while there is something to compute: a step may take less, but not less than the longer of the two.
        least = max(computation, way / carried) / expected
        self.report.add(PART, f"{what}: step beside computation and chain", measured / expected, f"{least:.2f} to {1 + STEP:.2f}",
                        0.97 * least <= measured / expected <= 1 + STEP, note)  # fmt: skip
        self.planned(what, ranks, rate, measured)

    def links_were_used(self, what, sent, wanted):
        """The last machine sends each total once, into its link: nothing goes through memory that the machines share."""
        self.report.add(PART, f"{what}: bytes of the last machine's link beside those of its totals", sent / wanted, "1.00 to 1.06",
                        1 <= sent / wanted <= 1.06)  # fmt: skip

    def planned(self, what, ranks, rate, measured):
        if not self.kinglet.offers("plan", "--network"):
            self.report.skip(PART, f"{what}: plan", "this kinglet's plan has no --network")
            return
        if ranks > 2:
            # It takes each machine for one that has a core to itself.
            return
        plan = ["plan", self.text, "--json", "--threads", "1", "--preset", PRESET, *settings(**MODEL)]
        done = self.kinglet.alone(*plan, "--ranks", ranks, "--network", f"{rate}M")
        forecast = json.loads(done.out.splitlines()[-1])["scaling"]["rows"][-1]["ms_per_step"] / 1000
        self.report.add(PART, f"{what}: plan beside the step", forecast / measured, f"within {PLAN:.0%}",
                        abs(forecast / measured - 1) <= PLAN, f"planned {forecast:.3f} s")  # fmt: skip


def events(folder, kind):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def step_s(folder):
    """The median of the seconds of a step, each from one estimate to the next but the first, when memory is new."""
    known = [(event["step"], event["train_s"]) for event in events(folder, "estimate")]
    each = [(t1 - t0) / (n1 - n0) for (n0, t0), (n1, t1) in zip(known[1:], known[2:])]
    return statistics.median(each)


def params(folder):
    return events(folder, "done")[0]["params"]
