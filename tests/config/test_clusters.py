"""Clusters: what jobs ask for, a sweep through a SLURM of this machine's own, a job through Kubernetes' API.

SLURM is Debian's, on one machine, when it is installed and one is root (`.ci/run` sees to it). Kubernetes is a server
on the loopback that speaks as much of its API as a job needs and runs what the pod would; client, profile and commands
are the real ones. Both need what `make setup-cluster` installs.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import kubernetes_jobs
import pytest
import yaml

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config import job_resources
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.models import families

ROOT = Path(__file__).parents[2]
SOURCES = ("Snakefile", "config.yaml", "rules", "profiles", "recipes", "schemas", "scripts", "envs")
DEBIAN = Path("/etc/slurm/slurm.conf")  # where Debian's looks; Snakemake's jobs leave no way to say another place
DAEMONS = ("munged", "slurmctld", "slurmd", "srun")
# The smallest sweep that has all stages. Dev alone: base, final and best are evaluated once each.
SMALL = (
    "dataset={train_rows: 300, test_rows: 12}",
    "prompt={dev_rows: 12, format_check_rows: 4}",
    "model={pretraining: {steps: 20}, architecture: {num_layers: 2, embed_dim: 64, hidden_dim: 96}}",
    "evaluation={split: dev, selection_rows: null, batch_size: 12, max_completion_tokens: 12}",
)
STEPS = 4
TRAINING = (
    f"training={{max_steps: {STEPS}, checkpoint_interval_steps: {STEPS}, prompts_per_step: 2, micro_batch_prompts: 2, "
    "num_generations: 4, max_completion_tokens: 12, rewards: [number, paused.py:pause]}"
)
# Stops in the third call of the first training, until it is killed.
PAUSED = """
import time
from pathlib import Path

calls = 0

def pause(prompts, completions, answers):
    global calls
    calls += 1
    if calls == 3 and not Path("paused").exists():
        Path("paused").touch()
        time.sleep(600)
    return [0.0] * len(completions)
"""


def installed(*modules):
    return pytest.mark.skipif(
        not all(importlib.util.find_spec(module) for module in modules), reason="needs `make setup-cluster`"
    )


def chosen(recipe="gemma2-2b-it", **changes):
    return effective_settings(recipe, changes)


@pytest.mark.parametrize(
    ("architecture", "exact"),
    [("gemma2_2b", 2_614_341_888), ("gemma3_1b", 999_885_952), ("qwen2.5_0.5b", 494_032_768)],
)
def test_parameters_by_the_sizes_are_those_of_the_published_models(architecture, exact):
    assert 0.999 * exact < families.approximate_parameters(architecture) <= exact


def test_accelerators_follow_from_the_platform_and_the_recipe():
    assert job_resources.generic_resources(chosen()) == job_resources.tpu_slice(chosen()) == ""
    assert job_resources.generic_resources(chosen(platform="cuda")) == "gpu:4"  # its mesh
    assert job_resources.generic_resources(chosen("minigrpo-slow", platform="cuda")) == "gpu:1"
    on_tpu = chosen(platform="tpu", preflight={"accelerator": "v6e-8"})
    assert (job_resources.generic_resources(on_tpu), job_resources.tpu_slice(on_tpu)) == (
        "tpu:8",
        "v6e-8",
    )  # a slice is not divided
    with pytest.raises(PipelineError, match=r"^platform: tpu, but preflight\.accelerator is h100-80gb, no TPU"):
        job_resources.generic_resources(chosen(platform="tpu", preflight={"accelerator": "h100-80gb"}))


def test_memory_follows_from_the_model():
    assert job_resources.host_memory_mib(chosen("tiny")) < 4200
    bfloat16, float32 = (
        job_resources.host_memory_mib(chosen(model={"dtype": dtype})) for dtype in ("bfloat16", "float32")
    )
    assert 12.4 * 1024 < bfloat16 < float32 < 32 * 1024  # 12.4 GiB were measured


POD = yaml.safe_load((ROOT / "profiles" / "kubernetes" / "pod.yaml").read_text())


def test_the_pod_of_a_job_asks_for_memory_accelerators_and_the_node_of_its_slice():
    resources = {"mem_mb": 24040, "gres": "tpu:8", "tpu_slice": "v5e-8"}
    job = kubernetes_jobs.manifest("train-1", "/project/.snakemake/job.sh", "/project", 2, resources, POD)
    assert job["spec"]["backoffLimit"] == 0 and job["metadata"]["name"] == "train-1"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "24040M"},
        "limits": {"google.com/tpu": "8"},
    }
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "2x4",
    }
    assert container["command"][-1] == "/project/.snakemake/job.sh" and container["workingDir"] == "/project"
    assert container["volumeMounts"] == POD["spec"]["containers"][0]["volumeMounts"]
    assert pod["restartPolicy"] == "Never" and "command" not in POD["spec"]["containers"][0]

    on_gpu = kubernetes_jobs.manifest("a", "s", "/p", 1, {"mem_mb": 5000, "gres": "gpu:1", "tpu_slice": ""}, POD)
    pod = on_gpu["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"} and "nodeSelector" not in pod
    plain = kubernetes_jobs.manifest("a", "s", "/p", 1, {"mem_mb": 4000}, POD)["spec"]["template"]["spec"]
    assert plain["containers"][0]["resources"]["limits"] == {}
    with pytest.raises(PipelineError, match=r"v5p-16 spans several hosts"):
        kubernetes_jobs.manifest("a", "s", "/p", 1, {"mem_mb": 1, "gres": "tpu:8", "tpu_slice": "v5p-16"}, POD)


def test_a_jobs_state():
    assert kubernetes_jobs.state(None) == "failed"
    assert kubernetes_jobs.state({"active": 1, "failed": None}) == kubernetes_jobs.state({}) == "running"
    assert kubernetes_jobs.state({"succeeded": 1}) == "success" and kubernetes_jobs.state({"failed": 1}) == "failed"


def test_the_end_of_a_pod_reaches_the_whole_job_and_is_waited_for(tmp_path):
    """Only the first process of a container gets the SIGTERM."""
    stage = (
        "import signal, sys, time, pathlib\n"
        "def stop(*_): time.sleep(0.5); pathlib.Path('saved').touch(); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, stop); pathlib.Path('ready').touch(); time.sleep(60)\n"
    )
    (tmp_path / "stage.py").write_text(stage)
    (tmp_path / "job.sh").write_text(f"trap : TERM\n{sys.executable} stage.py\nexit $?\n")
    entry = subprocess.Popen(["/bin/sh", "-c", kubernetes_jobs.ENTRY, "job.sh"], cwd=tmp_path)
    wait_for(lambda: (tmp_path / "ready").exists())
    entry.send_signal(signal.SIGTERM)
    assert entry.wait(timeout=60) == 3 and (tmp_path / "saved").exists()


def wait_for(found, seconds=300):
    """Waits for something that must happen; returns it."""
    for _ in range(seconds * 5):
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError("it never happened")


@pytest.fixture
def project(tmp_path):
    """The project without results."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    (folder / "paused.py").write_text(PAUSED)
    return folder


def start(project, profile, *arguments, **environment):
    """Snakemake with a profile, begun; its output goes to `snakemake.log`."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", f"profiles/{profile}", "--latency-wait", "10"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SNAKEMAKE_", "SLURM_"))}
    with open(project / "snakemake.log", "w") as log:
        return subprocess.Popen(
            [*command, *arguments], cwd=project, env=inherited | environment, stdout=log, stderr=subprocess.STDOUT
        )


class Kubernetes(BaseHTTPRequestHandler):
    """Jobs of the batch API: created, read and deleted; a job's pod is a process here."""

    jobs: ClassVar[dict] = {}

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        container = body["spec"]["template"]["spec"]["containers"][0]
        # The first never comes up: its node is lost.
        pod = subprocess.Popen(container["command"], cwd=container["workingDir"]) if self.jobs else None
        self.jobs[body["metadata"]["name"]] = {"path": self.path, "body": body, "pod": pod}
        self.answer(201, body)

    def do_GET(self):
        job = self.jobs.get(self.path.rpartition("/")[2])
        if job is None:
            return self.answer(404, {"kind": "Status", "code": 404})
        ended = 1 if job["pod"] is None else job["pod"].poll()
        status = {"active": 1} if ended is None else {"failed": 1} if ended else {"succeeded": 1}
        return self.answer(200, {**job["body"], "status": status})

    def answer(self, code, value):
        text = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def kubernetes(tmp_path):
    """The server; its configuration file for clients, and the jobs that it was sent."""
    Kubernetes.jobs = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Kubernetes)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "current-context": "here",
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(known))
    yield tmp_path / "kubeconfig", Kubernetes.jobs
    server.shutdown()


@installed("kubernetes", "snakemake_executor_plugin_cluster_generic")
def test_a_stage_as_a_kubernetes_job(project, kubernetes):
    configuration, jobs = kubernetes
    model = "results/models/tiny/model.json"
    overrides = ("--config", *SMALL, "platform=tpu", "preflight={accelerator: v5e-4}")
    run = start(project, "kubernetes", model, *overrides, KUBECONFIG=str(configuration), JAX_PLATFORMS="cpu")
    assert run.wait(timeout=300) == 0, (project / "snakemake.log").read_text()[-3000:]
    assert files.read_json(project / model)["parameters"] > 0
    lost, again = jobs.values()  # the first pod was lost; the job was sent again
    assert lost["pod"] is None and again["pod"].returncode == 0
    assert again["path"] == "/apis/batch/v1/namespaces/default/jobs"
    pod = again["body"]["spec"]["template"]["spec"]
    limits = pod["containers"][0]["resources"]
    assert limits["limits"] == {"google.com/tpu": "4"} and int(limits["requests"]["memory"].removesuffix("M")) > 4000
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x2"
    assert pod["containers"][0]["workingDir"] == str(project)
    # `download` wants no accelerator, but a network: it ran where Snakemake runs.
    assert {name.rpartition("-")[0] for name in jobs} == {"base-model"}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def slurm(tmp_path):
    """A SLURM of one node with one accelerator, without accounting."""
    if os.getuid() or not all(map(shutil.which, DAEMONS)):
        pytest.skip("needs root and Debian's slurmctld, slurmd, slurm-client and munge")
    if DEBIAN.exists():
        pytest.skip(f"{DEBIAN}: this machine has a SLURM of its own")
    folder, host = tmp_path / "slurm", socket.gethostname()
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    configuration = f"""
        ClusterName=here
        SlurmctldHost={host}(127.0.0.1)
        SlurmctldPort={free_port()}
        SlurmdPort={free_port()}
        SlurmUser=root
        SlurmdUser=root
        AuthType=auth/munge
        AuthInfo=socket={folder}/munge.socket
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/spool
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/slurmd.pid
        SlurmctldLogFile={folder}/slurmctld.log
        SlurmdLogFile={folder}/slurmd.log
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        MpiDefault=none
        ReturnToService=2
        MinJobAge=3600
        GresTypes=gpu
        SelectType=select/cons_tres
        SelectTypeParameters=CR_Core_Memory
        SchedulerParameters=sched_interval=1,bf_interval=1
        NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={memory - 100} Gres=gpu:1
        PartitionName=main Nodes=ALL Default=YES State=UP
    """
    (folder / "slurm.conf").write_text("\n".join(line.strip() for line in configuration.splitlines()))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    DEBIAN.parent.mkdir(exist_ok=True)
    links = [DEBIAN, DEBIAN.with_name("gres.conf")]
    daemons = []
    try:
        for link in links:
            link.symlink_to(folder / link.name)
        files_of_munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files_of_munge],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ):
            with open(folder / f"{command[0]}.out", "w") as out:
                daemons.append(subprocess.Popen(command, stdout=out, stderr=out))
            if command[0] == "munged":
                wait_for((folder / "munge.socket").exists)
        wait_for(lambda: "idle" in subprocess.run(["sinfo"], capture_output=True, text=True).stdout)
        yield folder
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=30)
            daemon.kill()
        for link in links:
            link.unlink(missing_ok=True)


def queued(what):
    """SLURM's jobs whose comment (Snakemake's rule and wildcards) has the text, by number: their states."""
    done = subprocess.run(
        ["squeue", "--states=all", "--noheader", "--format=%i|%T|%k|%b"], capture_output=True, text=True
    )
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {number: (state, gres) for number, state, comment, gres in rows if what in comment}


@installed("snakemake_executor_plugin_slurm")
def test_a_sweep_through_slurm_and_a_killed_job_goes_on(project, slurm):
    sweep = (
        "results/report.html",
        "--slurm-status-command",
        "squeue",
        "--slurm-init-seconds-before-status-checks",
        "1",
    )
    overrides = ("--config", "seeds=[0,1]", "platform=cuda", *SMALL, TRAINING)
    run = start(project, "slurm", *sweep, *overrides, JAX_PLATFORMS="cpu")
    try:
        wait_for(lambda: (project / "paused").exists() or run.poll() is not None, 900)
        assert run.poll() is None, (project / "snakemake.log").read_text()[-3000:]
        training = queued("rule_train")
        # One has the node's accelerator, the other waits for it.
        assert {gres for _, gres in training.values()} == {"gres:gpu:1"}
        (running,) = [number for number, (state, _) in training.items() if state == "RUNNING"]
        assert sum(state == "RUNNING" for state, _ in queued("rule_").values()) == 1
        subprocess.run(["scancel", running], check=True)
        assert run.wait(timeout=900) == 0, (project / "snakemake.log").read_text()[-3000:]
    finally:
        run.terminate()
    summaries = [files.read_json(project / f"results/tiny-seed-{seed}/training/summary.json") for seed in (0, 1)]
    # The killed one had saved its two whole steps and went on from there; the other had no second start.
    assert sorted(each["starts"] for each in summaries) == [[0], [0, 2]]
    assert all(each["steps"] == STEPS for each in summaries)
    assert len(queued("rule_train")) == 3 and {"CANCELLED", "COMPLETED"} == {
        state for state, _ in queued("rule_train").values()
    }
    # One model, one data set; a comparison of the two, in one report.
    assert len(queued("rule_base_model")) == 1
    assert [path.name for path in (project / "results" / "models").iterdir()] == ["tiny"]
    assert files.read_json(project / "results" / "tiny" / "seeds.json")
    assert files.read_json(project / "results" / "comparison-of-recipes.json")
    page = (project / "results" / "report.html").read_text()
    assert "tiny-seed-0" in page and "tiny-seed-1" in page
    assert len(queued("rule_evaluate")) == 6  # base, final and best of each

    again = start(project, "slurm", *sweep, *overrides)
    assert again.wait(timeout=300) == 0 and "Nothing to be done" in (project / "snakemake.log").read_text()
