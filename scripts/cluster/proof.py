"""The parts of `scripts/cluster.py`, one after another."""

import signal
import sys
import time
import traceback

from .. import proving
from ..doors.report import Report
from . import page
from .bits import Bits
from .failure import Failure
from .mpis import Environments, Missing, all_of
from .network import Network
from .program import Kinglet
from .sweep import Sweep

PARTS = {"bits": Bits, "network": Network, "failure": Failure, "sweep": Sweep}


def prove(args, parts, cache):
    """Checks these parts; what one of them needs and this machine or this build lacks is said."""
    # So that machines and processes are taken away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun, report, environments = time.monotonic(), Report(quiet=args.json), Environments(cache)
    kinglet = Kinglet(args.binary.resolve())
    with proving.folder_for_work(args, "kinglet-cluster-") as work:
        work = work.resolve()
        found = all_of(environments, report, "MPI", args.light)
        mpis = [mpi for mpi in found if not args.mpi or any(name in mpi.name for name in args.mpi)]
        for part in parts:
            folder = work / part
            folder.mkdir(parents=True, exist_ok=True)
            since = time.monotonic()
            try:
                PARTS[part](kinglet, folder, report, mpis, args).all()
            except Missing as missing:
                report.skip(part, "all", str(missing))
            except Exception:
                report.failed(part, "all", traceback.format_exc()[-1500:])
            print(f"{part}: {time.monotonic() - since:.0f} s", file=sys.stderr, flush=True)
    if not mpis and args.or_skip:
        print("nothing was checked: there is no MPI")
        sys.exit(0)
    proving.end(args, report, environments, begun, page.write)
