"""The process of one contestant, which run.py starts. It computes when it is its turn, and waits otherwise.

  worker.py CONTESTANT JSON     (JSON: the workload, and `steps`)

Replies alone go to stdout (turns.py); whatever libraries print goes to stderr.
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
