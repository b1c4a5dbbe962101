#!/usr/bin/env python3
"""Deletes Kubernetes jobs: cancel.py NAME … Their pods get a SIGTERM first."""

import os
import sys

import kubernetes_jobs


def main() -> None:
    if os.fork():  # Snakemake waits only two seconds; importing the client can take longer
        return
    os.setsid()
    api, pod = kubernetes_jobs.connect()
    for name in sys.argv[1:]:
        api.delete_namespaced_job(name, pod["namespace"], propagation_policy="Foreground")


if __name__ == "__main__":
    main()
