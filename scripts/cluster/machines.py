"""Network namespaces as machines: a bridge, a link of limited rate to each, and what takes the place of ssh."""

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

from ..doors.environments import Missing
from .processes import send

# What a launcher calls as it would call ssh: the name of a machine, then a command for its shell. As there, the command has none of
# the caller's variables.
AGENT = """#!/bin/sh
while :; do
    case "$1" in
        -l | -p | -o) shift 2 ;;
        -*) shift ;;
        *) break ;;
    esac
done
machine=$1
shift
exec env -i HOME="$HOME" PATH="$PATH" ip netns exec "$machine" unshare --uts sh -c 'hostname "$0"; exec sh -c "$1"' "$machine" "$*"
"""
NETWORK = "10.77.0"


class Machines:
    """Machines on one switch. Leaving them takes all away."""

    def __init__(self, count, folder):
        if os.geteuid() != 0:
            raise Missing("network namespaces need root")
        if missing := [tool for tool in ("ip", "tc", "unshare") if shutil.which(tool) is None]:
            raise Missing(f"{missing[0]} is not installed")
        # The names of interfaces are short.
        self.base = f"kl{os.getpid() % 100_000}"
        self.names = [f"{self.base}-{i}" for i in range(count)]
        self.addresses = [f"{NETWORK}.{i + 1}" for i in range(count)]
        self.agent = folder / "agent"
        self.agent.write_text(AGENT, encoding="utf-8")
        self.agent.chmod(0o755)

    def __enter__(self):
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self.__exit__()
            raise Missing(f"{shlex.join(error.cmd)}: {error.stderr.strip()}") from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in self.names:
            left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in map(int, left):
                send(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)
            shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
        subprocess.run(["ip", "link", "delete", self.base], stderr=subprocess.DEVNULL)

    def _make(self):
        run("ip", "link", "add", self.base, "type", "bridge")
        run("ip", "link", "set", self.base, "up")
        hosts = "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for a, n in zip(self.addresses, self.names, strict=True))
        for name, address in zip(self.names, self.addresses, strict=True):
            run("ip", "netns", "add", name)
            folder = Path("/etc/netns") / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "hosts").write_text(hosts, encoding="utf-8")
            run("ip", "link", "add", f"{name}p", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", f"{name}p", "master", self.base, "up")
            self.within(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            self.within(name, "ip", "link", "set", "eth0", "up")
            self.within(name, "ip", "link", "set", "lo", "up")

    def limit(self, mbit):
        """The rate of each link, in both directions; without one, that of this machine."""
        # Enough for what a tick of the kernel's clock lets through, and for a packet as the kernel joins them; a queue of 40 ms.
        burst = max(64 * 1024, mbit * 1_000_000 // 8 // 250) if mbit else 0
        for name in self.names:
            for enter, device in ([], f"{name}p"), (["ip", "netns", "exec", name], "eth0"):
                if mbit:
                    words = ["replace", "dev", device, "root", "tbf", "rate", f"{mbit}mbit"]
                    run(*enter, "tc", "qdisc", *words, "burst", str(burst), "latency", "40ms")
                else:
                    subprocess.run([*enter, "tc", "qdisc", "delete", "dev", device, "root"], stderr=subprocess.DEVNULL)

    def link(self, machine, state):
        """Pulls the cable of a machine (`down`), or puts it back (`up`)."""
        run("ip", "link", "set", f"{self.names[machine]}p", state)

    def within(self, name, *words):
        run("ip", "netns", "exec", name, *words)

    def words(self, machine, words, env=None):
        """The command that runs these words on a machine."""
        variables = [f"{key}={value}" for key, value in (env or {}).items()]
        return [str(self.agent), self.names[machine], shlex.join(["env", *variables, *map(str, words)])]

    def launch(self, mpi, ranks, command, env=None, options=()):
        """The command that starts a rank on each of the first machines, from the first of them."""
        hosts = self.names[:ranks]
        env = mpi.environment | mpi.environment_among() | (env or {})
        return self.words(0, mpi.words(ranks, command, [*mpi.options_among(self, hosts, env), *options]), env)

    def sent(self):
        """The bytes that each machine has sent into its link so far, with all headers."""
        return [self._bytes(name, "TX") for name in self.names]

    def _bytes(self, name, direction):
        shown = run("ip", "netns", "exec", name, "ip", "-s", "link", "show", "eth0")
        return int(re.search(rf"{direction}:.*\n\s+(\d+)", shown)[1])


def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
