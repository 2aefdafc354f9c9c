"""The processes below a launcher."""

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

# How long a process may take that was told to end.
SOON = 5
# The variables that say which rank a process is.
RANK = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK")


class Done:
    """A command that has ended: how, what it said, and its seconds."""

    def __init__(self, status, out, err, seconds, late=False):
        self.status, self.out, self.err, self.seconds, self.late = status, out, err, seconds, late

    @property
    def said(self):
        return (self.out + self.err).strip()

    def errors(self):
        """kinglet's own messages of errors, which are one in all."""
        return [line for line in self.said.splitlines() if line.startswith(("error:", "thread '", "fatal"))]

    def __repr__(self):
        end = "was ended after" if self.late else f"status {self.status} after"
        return f"{end} {self.seconds:.1f} s: {self.said[-1500:]}"


class Started:
    """A command under way, with all that it starts."""

    def __init__(self, words, env=None, cwd=None):
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            list(map(str, words)), stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err, env=env, cwd=cwd, start_new_session=True
        )

    def wait(self, seconds):
        """Its end; what takes longer is ended with all below it, and is late."""
        late = False
        try:
            self.process.wait(max(0, self.begun + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            late = True
            self.end()
        taken = time.monotonic() - self.begun
        said = []
        for file in (self.out, self.err):
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
            file.close()
        return Done(self.process.returncode, *said, taken, late)

    def ends_within(self, seconds):
        """Whether it ends by itself."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self):
        """Ends it and all below it at once."""
        below = descendants(self.process.pid)
        for pid in [self.process.pid, *below]:
            send(pid, signal.SIGKILL)
        self.process.wait(SOON)

    def ranks(self, program):
        """The processes below that are ranks of this program, by rank."""
        found = {}
        for pid in descendants(self.process.pid):
            if is_program(pid, program) and (rank := rank_of(pid)) is not None:
                found[rank] = pid
        return found

    def wait_for_ranks(self, program, count, seconds=20):
        """The processes of all ranks, once they are there."""
        until = time.monotonic() + seconds
        while len(found := self.ranks(program)) < count:
            if self.process.poll() is not None or time.monotonic() > until:
                return found
            time.sleep(0.005)
        return found


def run(words, env=None, seconds=120, cwd=None):
    return Started(words, env, cwd).wait(seconds)


def descendants(root):
    """All processes below this one."""
    children = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            # The name before it may contain anything.
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def is_program(pid, program):
    try:
        return os.path.samefile(f"/proc/{pid}/exe", program)
    except OSError:
        return False


def rank_of(pid):
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    known = dict(variable.partition(b"=")[::2] for variable in variables)
    return next((int(known[name.encode()]) for name in RANK if name.encode() in known), None)


def send(pid, number):
    """Sends a signal; whether there was somebody to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def are_gone(pids, seconds=SOON):
    """Whether these processes end within so many seconds."""
    until = time.monotonic() + seconds
    while left := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return not left


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
