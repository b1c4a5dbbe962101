#!/usr/bin/env python3
"""Prints the state of a Kubernetes job, `running`, `success` or `failed`: status.py NAME."""

import sys

import kubernetes_jobs


def main() -> None:
    import urllib3
    from kubernetes.client import ApiException

    api, pod = kubernetes_jobs.connect()
    try:
        status = api.read_namespaced_job(sys.argv[1], pod["namespace"]).status.to_dict()
    except ApiException as error:
        # Any other error is the server's and says nothing about the job; Snakemake asks again.
        status = None if error.status == 404 else {}
    except urllib3.exceptions.HTTPError:
        status = {}
    print(kubernetes_jobs.job_state(status))


if __name__ == "__main__":
    main()
