"""One contestant's process, started by run.py: it computes when it is its turn, and waits otherwise.

  worker.py CONTESTANT JSON     (JSON: the workload, and `steps`)

What libraries print goes to stderr; stdout has replies alone (turns.py).
"""

import importlib
import json
import os
import sys

from turns import Turns
from workloads import Workload

MODULES = {"ours": "ours", "stock": "stock", "trl": "hugging_face"}


def main() -> None:
    contestant, description = sys.argv[1], json.loads(sys.argv[2])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    workload = Workload(**description["workload"])
    module = importlib.import_module(MODULES[contestant])
    getattr(module, workload.kind)(workload, Turns(description["steps"], replies))


if __name__ == "__main__":
    main()
