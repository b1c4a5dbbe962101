#!/usr/bin/env python3
"""Creates the Kubernetes job that runs one of Snakemake's job scripts, and prints its name: submit.py SCRIPT."""

import sys
import uuid
from pathlib import Path

import kubernetes_jobs

from gsm8k_grpo.common.errors import exit_on_error


def main() -> None:
    from snakemake.utils import read_job_properties

    api, pod = kubernetes_jobs.connect()
    script = Path(sys.argv[1]).resolve()
    job = read_job_properties(script)
    name = f"{job['rule'].replace('_', '-')}-{uuid.uuid4().hex[:12]}"
    manifest = kubernetes_jobs.job_manifest(name, str(script), str(Path.cwd()), job["threads"], job["resources"], pod)
    api.create_namespaced_job(pod["namespace"], manifest)
    print(name)


if __name__ == "__main__":
    exit_on_error(main)
