"""The process of one contestant, which run.py starts. It computes when it is its turn, and waits otherwise.

  worker.py CONTESTANT     (the first line of its input is JSON: the workload, and `steps`)

A contestant's first word names its module, the others are its options: a precision, `checkpointing` (PyTorch's gradient
checkpointing), a file of llama.cpp's (`Q8_0`), a number of rows a batch. Replies alone go to stdout (turns.py);
whatever libraries print goes to stderr.
"""

import importlib
import json
import os
import sys
from pathlib import Path

from turns import Turns
from workloads import Workload

MODULES = {"ours": "ours", "stock": "stock", "trl": "hugging_face", "llama.cpp": "llama"}


def main() -> None:
    (contestant, *options), description = sys.argv[1].split(), json.loads(sys.stdin.readline())
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if Path("/proc/self/oom_score_adj").exists():  # where memory ends, this process is killed and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    workload = Workload(**description["workload"])
    module = importlib.import_module(MODULES[contestant])
    getattr(module, workload.kind)(workload, Turns(description["steps"], replies), options)


if __name__ == "__main__":
    main()
