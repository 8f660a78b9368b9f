"""`rmq` whose disk fails: FAULT="kind number errno" in the environment; the number counts calls of that kind."""

import os
import sys

from rmq import cli
from rmq_store import disk, store
from tests.sim.faults import Fault, FaultDisk

kind, number, errno_ = os.environ["FAULT"].split()
fault = Fault(kind, int(number), int(errno_), half=False, stays=True)
vars(store)["RealDisk"] = lambda root: FaultDisk(disk.RealDisk(root), fault)
sys.exit(cli.run(sys.argv[1:]))
