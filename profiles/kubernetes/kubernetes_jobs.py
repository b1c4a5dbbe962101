"""Snakemake's jobs as Kubernetes jobs; profiles/kubernetes calls this."""

import copy
from collections.abc import Mapping

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.accelerators import ACCELERATORS

# GKE's names of the nodes of slices on one host: cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus.
TPU_NODES = {"v5e": "tpu-v5-lite-podslice", "v6e": "tpu-v6e-slice", "v5p": "tpu-v5p-slice"}
SEVERAL_HOSTS = ("v5p-16",)
RESOURCE_NAMES = {"gpu": "nvidia.com/gpu", "tpu": "google.com/tpu"}
# A pod's end is announced to its first process alone; this one passes it on to the job's whole process group, where
# training saves its newest step.
ENTRY = """setsid /bin/sh "$0" & job=$!
trap 'kill -TERM -$job' TERM
wait $job; status=$?
while kill -0 $job 2>/dev/null; do wait $job; status=$?; done
exit $status"""
GRACE_SECONDS = 60  # training takes up to 20 of them


def manifest(name: str, script: str, folder: str, threads: int, resources: Mapping, pod: Mapping) -> dict:
    """The Kubernetes job that runs one of Snakemake's job scripts.

    Args:
      name: of the job.
      script: the job script's path, on a volume that the pod sees.
      folder: the project's.
      threads: processors to ask for.
      resources: of the Snakemake job: `mem_mb`, `gres` (`tpu:8`, `gpu:1` or nothing) and `tpu_slice` (such as `v5e-8`).
      pod: pod.yaml.

    Returns:
      the body of a request to create it.

    Raises:
      PipelineError: the slice spans several hosts.
    """
    amounts = {"cpu": str(threads), "memory": f"{resources['mem_mb']}M"}
    limits = {}
    spec = copy.deepcopy(dict(pod["spec"]))
    kind, _, count = (resources.get("gres") or "").partition(":")
    if kind:
        limits[RESOURCE_NAMES[kind]] = count  # such a resource is asked for by its limit
    slice_name = resources.get("tpu_slice")
    if slice_name:
        if slice_name in SEVERAL_HOSTS:
            raise PipelineError(f"preflight.accelerator: {slice_name} spans several hosts, a job here is one pod")
        generation, _, topology = ACCELERATORS[slice_name].topology.partition(":")
        spec["nodeSelector"] = {
            **spec.get("nodeSelector", {}),
            "cloud.google.com/gke-tpu-accelerator": TPU_NODES[generation],
            "cloud.google.com/gke-tpu-topology": topology,
        }
    (container,) = spec["containers"]
    container |= {
        "command": ["/bin/sh", "-c", ENTRY, script],
        "workingDir": folder,
        "resources": {"requests": amounts, "limits": limits},
    }
    spec |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE_SECONDS}
    labels = {"app": "snakemake"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        # Snakemake counts the tries. A day to read the pod's log.
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 86_400,
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def state(status: Mapping | None) -> str:
    """What Snakemake calls a job's state: `running`, `success` or `failed`.

    Args:
      status: of the job as Kubernetes has it; None where there is no such job (someone deleted it).
    """
    if status is None or status.get("failed"):
        return "failed"
    return "success" if status.get("succeeded") else "running"
