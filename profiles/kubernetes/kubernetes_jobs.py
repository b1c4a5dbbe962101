"""Translates Snakemake's jobs into Kubernetes jobs. The commands of this profile use it."""

import copy
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.config.merging import read_yaml

# GKE's node labels for slices on one host: cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus.
TPU_NODES = {"v5e": "tpu-v5-lite-podslice", "v6e": "tpu-v6e-slice", "v5p": "tpu-v5p-slice"}
SEVERAL_HOSTS = ("v5p-16",)
RESOURCE_NAMES = {"gpu": "nvidia.com/gpu", "tpu": "google.com/tpu"}
# Kubernetes sends SIGTERM to a container's first process only. This one passes it on to the job's whole process group,
# so that training saves its newest step, and waits for the job to end.
ENTRY = """setsid /bin/sh "$0" & job=$!
trap 'kill -TERM -$job' TERM
wait $job; status=$?
while kill -0 $job 2>/dev/null; do wait $job; status=$?; done
exit $status"""
GRACE_SECONDS = 60  # training needs up to 20 of them to save
KEPT_SECONDS = 86_400  # a finished pod stays for a day, so that its log can be read


def connect() -> tuple:
    """A client of Kubernetes' batch API (by the pod's service account or kubectl's configuration), and pod.yaml."""
    from kubernetes import client, config

    config.load_config()
    return client.BatchV1Api(), read_yaml(Path(__file__).with_name("pod.yaml"))


def job_manifest(name: str, script: str, folder: str, threads: int, resources: Mapping, pod: Mapping) -> dict:
    """The Kubernetes job that runs one of Snakemake's job scripts.

    Args:
      name: name of the job.
      script: path of the job script, on a volume that the pod mounts.
      folder: the project's folder.
      threads: processors to request.
      resources: the Snakemake job's `mem_mb`, `gres` (`tpu:8`, `gpu:1` or empty) and `tpu_slice` (such as `v5e-8`).
      pod: the content of pod.yaml.

    Raises:
      PipelineError: the slice spans several hosts.
    """
    spec, limits = copy.deepcopy(dict(pod["spec"])), {}
    kind, _, count = (resources.get("gres") or "").partition(":")
    if kind:
        limits[RESOURCE_NAMES[kind]] = count  # Kubernetes takes the limit of such a resource as its request
    slice_name = resources.get("tpu_slice")
    if slice_name:
        if slice_name in SEVERAL_HOSTS:
            raise PipelineError(
                f"preflight.accelerator: {slice_name} spans several hosts; a job here is one pod: name a smaller slice"
            )
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
        "resources": {"requests": {"cpu": str(threads), "memory": f"{resources['mem_mb']}M"}, "limits": limits},
    }
    spec |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE_SECONDS}
    labels = {"app": "snakemake"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,  # Snakemake retries
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def job_state(status: Mapping | None) -> str:
    """Snakemake's word for a job's state: `running`, `success` or `failed`.

    Args:
      status: the job's status in Kubernetes; None where the job does not exist (someone deleted it).
    """
    if status is None or status.get("failed"):
        return "failed"
    return "success" if status.get("succeeded") else "running"
