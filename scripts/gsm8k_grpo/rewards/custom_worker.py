"""The process that runs a user's own rewards: `python custom_worker.py DESCRIPTOR`, of the socket to custom_process.py.

It gets one JSON object a line, and answers with one: `values`, or the sentence `fault`. What a reward prints goes to
the stage's own output.
"""

import ctypes
import json
import signal
import socket
import sys
from pathlib import Path

if __name__ == "__main__":  # started by its path
    sys.path.insert(0, str(Path(__file__).parents[2]))

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import custom_call

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def serve(channel: socket.socket) -> None:
    """Answers requests until the other side is gone."""
    if sys.platform == "linux":  # the stage may be killed during an endless loop
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with channel.makefile("rwb") as lines:
        for line in lines:
            request = json.loads(line)
            try:
                lines.write(json.dumps(_answer(**request)).encode() + b"\n")
                lines.flush()
            except Exception as error:  # the reward changed what this process needs itself
                sys.exit(f"{request['name']} broke its process: {type(error).__name__}: {error}")


def _answer(name: str, root: str, rows: list[dict] | None, completions: list[str] | None) -> dict:
    """The rewards of completions; without completions, whether the function can be called."""
    try:
        if completions is None:
            custom_call.load_function(name, Path(root))
            return {"values": []}
        return {"values": custom_call.call_function(name, rows, completions, Path(root))}
    except PipelineError as error:
        return {"fault": str(error)}


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
