#!/usr/bin/env python3
"""Deletes Kubernetes jobs, whose pods get a SIGTERM first: cancel.py NAME …"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from gsm8k_grpo.config.merging import read_yaml  # noqa: E402


def main() -> None:
    if os.fork():  # Snakemake waits two seconds for it, the client's import alone can take as long
        return
    os.setsid()
    from kubernetes import client, config

    config.load_config()
    namespace = read_yaml(Path(__file__).with_name("pod.yaml"))["namespace"]
    for name in sys.argv[1:]:
        client.BatchV1Api().delete_namespaced_job(name, namespace, propagation_policy="Foreground")


if __name__ == "__main__":
    main()
