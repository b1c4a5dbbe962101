#!/usr/bin/env python3
"""Sends one of Snakemake's job scripts as a Kubernetes job and prints its name: submit.py SCRIPT."""

import sys
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from gsm8k_grpo.common.errors import run_stage  # noqa: E402
from gsm8k_grpo.config.merging import read_yaml  # noqa: E402


def main() -> None:
    import kubernetes_jobs
    from kubernetes import client, config
    from snakemake.utils import read_job_properties

    config.load_config()  # within a pod, or of kubectl
    script, pod = Path(sys.argv[1]).resolve(), read_yaml(Path(__file__).with_name("pod.yaml"))
    job = read_job_properties(script)
    name = f"{job['rule'].replace('_', '-')}-{uuid.uuid4().hex[:12]}"
    body = kubernetes_jobs.manifest(name, str(script), str(Path.cwd()), job["threads"], job["resources"], pod)
    client.BatchV1Api().create_namespaced_job(pod["namespace"], body)
    print(name)


if __name__ == "__main__":
    run_stage(main)
