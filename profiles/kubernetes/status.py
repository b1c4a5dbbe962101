#!/usr/bin/env python3
"""Prints whether a Kubernetes job is running, a success or failed: status.py NAME."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from gsm8k_grpo.config.merging import read_yaml  # noqa: E402


def main() -> None:
    import kubernetes_jobs
    import urllib3
    from kubernetes import client, config

    config.load_config()
    namespace = read_yaml(Path(__file__).with_name("pod.yaml"))["namespace"]
    try:
        status = client.BatchV1Api().read_namespaced_job(sys.argv[1], namespace).status.to_dict()
    except client.ApiException as error:
        # A server that is out of breath knows no more of the job; Snakemake asks again.
        status = None if error.status == 404 else {}
    except urllib3.exceptions.HTTPError:
        status = {}
    print(kubernetes_jobs.state(status))


if __name__ == "__main__":
    main()
