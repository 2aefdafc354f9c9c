"""The same bits on any number of ranks, with every MPI that there is; and what must be refused."""

from .mpis import needs_no_library
from .processes import Done
from .program import bits, first_difference, settings

PART = "bits"
# A tiny model with what could make bits depend on the number of ranks: dropout, accumulation, parts of different sizes.
TINY = {"max_iters": 30, "eval_interval": 10, "eval_iters": 4, "log_interval": 1, "sample_tokens": 20, "n_layer": 2, "n_embd": 32,
        "n_head": 2, "block_size": 32, "batch_size": 9, "gradient_accumulation_steps": 2, "dropout": 0.1, "shards": 4}  # fmt: skip
SHORT = {**TINY, "max_iters": 10}
CASES = {
    "AdamW": TINY,
    "Muon": {**TINY, "optimizer": "muon", "seed": 2},
    "bf16": {**TINY, "precision": "bf16", "seed": 3},
}
LORA = {"max_iters": 20, "eval_interval": 10, "eval_iters": 4, "log_interval": 1, "lora_rank": 4, "lora_dropout": 0.1, "dropout": 0.1,
        "batch_size": 8, "shards": 4, "replay": 0.25}  # fmt: skip



def train(keys):
    return ["train", "--quiet", *settings(**keys)]


def lines(done):
    """The beginnings of the lines that a run prints: neither seconds nor its folder."""
    return [line[:8] for line in done.out.splitlines() if " steps in " not in line]


def must_end_well(done):
    """Without what is compared with, nothing can be."""
    if done.status != 0:
        raise RuntimeError(f"one process: {done}")


class Bits:
    def __init__(self, kinglet, work, report, mpis, _):
        self.kinglet, self.work, self.report, self.mpis = kinglet, work, report, mpis
        self.wanted, self.printed = {}, {}

    def all(self):
        libraries = needs_no_library(self.kinglet.binary)
        self.report.add(PART, "MPI libraries that the program is linked with", ", ".join(libraries) or "none", "none", not libraries)
        self.references()
        for mpi in self.mpis:
            for ranks in 2, 3, 4:
                self.same(mpi, ranks, "AdamW")
            for ranks, case in (2, "Muon"), (4, "bf16"), (3, "LoRA"):
                self.same(mpi, ranks, case)
            self.resumed(mpi)
            self.default_shards(mpi)
            self.statuses(mpi)
        self.refused()

    def references(self):
        """What one process without a launcher makes of each case."""
        for case, keys in CASES.items():
            self.wanted[case] = self.alone(case, *train(keys))
        self.wanted["LoRA"] = self.alone("LoRA", *self.finetune())
        twice = self.folder("resumed", 1)
        for words in self.twice(twice):
            must_end_well(self.kinglet.alone(*words))
        self.wanted["resumed"] = bits(twice)

    def folder(self, case, ranks, mpi=None):
        return self.work / f"{case}-{ranks}{'' if mpi is None else '-' + ''.join(filter(str.isalnum, mpi.name))}"

    def finetune(self):
        return ["finetune", self.folder("AdamW", 1), "builtin", "--quiet", *settings(**LORA)]

    def twice(self, folder):
        """A run, and its continuation."""
        yield ["train", "--quiet", "--out", folder, *settings(**SHORT)]
        yield ["train", "--quiet", "--resume", "--out", folder, *settings(max_iters=TINY["max_iters"])]

    def alone(self, case, *words):
        folder = self.folder(case, 1)
        done = self.kinglet.alone(*words, "--out", folder)
        must_end_well(done)
        self.printed[case] = lines(done)
        return bits(folder)

    def same(self, mpi, ranks, case):
        """A run on so many ranks has the bits of one process, and prints what one process prints."""
        folder = self.folder(case, ranks, mpi)
        words = self.finetune() if case == "LoRA" else train(CASES[case])
        done = self.kinglet.ranks(mpi, ranks, *words, "--out", folder)
        what = f"{mpi}, {ranks} ranks: {case}"
        if self.compare(what, done, folder, case) and lines(done) != self.printed[case]:
            self.report.failed(PART, what, f"it prints {done.out}")

    def compare(self, what, done, folder, case):
        if done.status != 0:
            return self.report.failed(PART, what, repr(done))
        unlike = first_difference(bits(folder), self.wanted[case])
        said = self.kinglet.alone("compare", "--bits", folder, self.folder(case, 1))
        if not unlike and said.status != 0:
            unlike = said.said
        return self.report.add(PART, what, "different" if unlike else "the same bits", "the same bits", not unlike, unlike[:600])

    def resumed(self, mpi):
        """Begun on three ranks, continued on two."""
        folder = self.folder("resumed", 32, mpi)
        for ranks, words in zip((3, 2), self.twice(folder), strict=True):
            done = self.kinglet.ranks(mpi, ranks, *words)
        self.compare(f"{mpi}: begun on 3 ranks, continued on 2", done, folder, "resumed")

    def default_shards(self, mpi):
        """Without a number of shards there is one that fits, and it is written down."""
        folder, other = self.folder("default", 3, mpi), self.folder("default", 1, mpi)
        keys = {**SHORT, "shards": 0}
        done = self.kinglet.ranks(mpi, 3, *train(keys), "--out", folder)
        if done.status != 0:
            self.report.failed(PART, f"{mpi}: shards that nobody set", repr(done))
            return
        written = [line for line in (folder / "config.toml").read_text(encoding="utf-8").splitlines() if line.startswith("shards")]
        count = int(written[0].partition("=")[2]) if written else 0
        self.kinglet.alone(*train({**keys, "shards": count}), "--out", other)
        unlike = first_difference(bits(folder), bits(other)) if count >= 3 else f"shards = {count}"
        self.report.add(PART, f"{mpi}: shards that nobody set", unlike or f"{count}, the same bits", "3 or more, the same bits", not unlike)

    def statuses(self, mpi):
        """How the launcher ends when kinglet fails: with its status, after one message."""
        out = self.folder("refused", 2, mpi)
        cases = {
            "a wrong value": (2, 2, ["train", "--out", out, "--set", "n_layer=0"]),
            "a text that is not there": (2, 1, ["train", "/nowhere/text.txt", "--out", out]),
            "more ranks than shards": (3, 2, ["train", "--out", out, *settings(**{**SHORT, "shards": 2})]),
            "a folder that is a run already": (2, None, ["train", "--out", self.folder("AdamW", 1), *settings(**SHORT)]),
            "another command": (2, 2, ["presets"]),
        }
        for what, (ranks, status, words) in cases.items():
            done = self.kinglet.ranks(mpi, ranks, *words, "--quiet", seconds=30)
            if status is None:
                status = self.kinglet.alone(*words, "--quiet").status
            self.one_message(f"{mpi}: {what}", done, status)
            if out.exists():
                self.report.failed(PART, f"{mpi}: {what}", f"left {[str(path) for path in out.rglob('*')][:5]}")

    def one_message(self, what, done, status, within=15):
        ok = len(done.errors()) == 1 and done.status == status and not done.late and done.seconds < within
        measured = f"status {done.status}, {len(done.errors())} messages"
        self.report.add(PART, what, measured, f"status {status}, 1 messages", ok, "" if ok else done.said[-1500:])

    def refused(self):
        """What is no team of ranks."""
        if not self.mpis:
            return
        mpi, out = self.mpis[0], self.folder("refused", 2)
        nowhere, no_mpi = {"KINGLET_MPI": "/nowhere/libmpi.so"}, {"KINGLET_MPI": "libm.so.6"}
        self.one_message("a library that is not there", self.kinglet.ranks(mpi, 2, *self.short(out), env=nowhere), 1)
        self.one_message("a library that is not one of MPI", self.kinglet.ranks(mpi, 2, *self.short(out), env=no_mpi), 1)
        for other in [other for other in self.mpis if other.is_open_mpi != mpi.is_open_mpi][:1]:
            for launcher, library in (mpi, other), (other, mpi):
                done = self.kinglet.ranks(launcher, 2, *self.short(out), env={"KINGLET_MPI": library.library}, seconds=40)
                self.one_message(f"the launcher of {launcher}, the library of {library}", done, 1)
        # srun without PMI: variables of Slurm's, and nobody who speaks MPI.
        step = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_NTASKS": "3", "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0"}
        each = [self.kinglet.alone(*self.short(out), env={**step, "SLURM_PROCID": str(rank)}) for rank in range(3)]
        said = Done(max(done.status for done in each), "", "".join(done.err for done in each), max(done.seconds for done in each))
        self.one_message("srun that speaks no MPI", said, 1)
        # A script of sbatch runs once.
        self.unchanged("a script of sbatch", env={"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"})
        self.unchanged("a launcher that is to be ignored", env={"KINGLET_MPI": "none", "OMPI_COMM_WORLD_SIZE": "4"})
        self.unchanged("a library without a launcher", env=nowhere)
        self.unchanged("a launcher of one process, and no library", mpi, env=nowhere)
        self.unchanged("a launcher of one process", mpi)

    def short(self, out):
        return ["train", "--quiet", "--out", out, *settings(**SHORT)]

    def unchanged(self, what, mpi=None, env=None):
        """One process, as without a launcher."""
        out = self.work / f"unchanged-{len(self.report.lines)}"
        done = self.kinglet.ranks(mpi, 1, *self.short(out), env=env) if mpi else self.kinglet.alone(*self.short(out), env=env)
        self.report.holds(PART, f"{what}: as alone", done.status == 0, "" if done.status == 0 else repr(done))
