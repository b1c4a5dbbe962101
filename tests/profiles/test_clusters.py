"""The profiles for clusters: a sweep through a real SLURM on this machine, and a stage through Kubernetes' API.

SLURM is Debian's; its test needs root and the packages (`.ci/run` installs them). Kubernetes is a server on the
loopback that knows a part of the API and runs a pod's command as a process; client, profile and commands are the real
ones. Both need `make setup-cluster`.
"""

import contextlib
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

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.errors import PipelineError
from workflow_copy import ROOT, copy_sources

SLURM_CONF = Path("/etc/slurm/slurm.conf")  # Debian's place; Snakemake's jobs cannot be told another one
DAEMONS = ("munged", "slurmctld", "slurmd", "srun")
# The smallest sweep with all stages. It evaluates on dev only, so base, final and best are evaluated once each.
SMALL = (
    "dataset={train_rows: 300, test_rows: 12}",
    "prompt={dev_rows: 12, format_check_rows: 4}",
    "model={pretraining: {steps: 20}, architecture: {num_layers: 2, embed_dim: 64, hidden_dim: 96}}",
    "evaluation={split: dev, selection_rows: null, batch_size: 12, max_completion_tokens: 12}",
)
STEPS = 4
TRAINING = (
    f"training={{max_steps: {STEPS}, checkpoint_interval_steps: {STEPS}, prompts_per_step: 2, "
    "num_generations: 4, max_completion_tokens: 12, rewards: [number, paused.py:pause]}"
)
COMPLETIONS = 2 * 4  # a step's, which no other stage scores at once
# A reward that stops in the third step of a training until the first training is killed.
PAUSED = f"""
import time
from pathlib import Path

calls = 0

def pause(prompts, completions, answers):
    global calls
    calls += len(completions) == {COMPLETIONS}
    if calls == 3 and not Path("paused").exists():
        Path("paused").touch()
        time.sleep(600)
    return [0.0] * len(completions)
"""
POD = yaml.safe_load((ROOT / "profiles" / "kubernetes" / "pod.yaml").read_text())


def test_a_pod_requests_memory_accelerators_and_the_nodes_of_its_slice():
    resources = {"mem_mb": 24040, "gres": "tpu:8", "tpu_slice": "v5e-8"}
    job = kubernetes_jobs.job_manifest("train-1", "/project/.snakemake/job.sh", "/project", 2, resources, POD)
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

    on_gpu = kubernetes_jobs.job_manifest("a", "s", "/p", 1, {"mem_mb": 5000, "gres": "gpu:1", "tpu_slice": ""}, POD)
    pod = on_gpu["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"} and "nodeSelector" not in pod
    plain = kubernetes_jobs.job_manifest("a", "s", "/p", 1, {"mem_mb": 4000}, POD)["spec"]["template"]["spec"]
    assert plain["containers"][0]["resources"]["limits"] == {}
    with pytest.raises(PipelineError, match=r"v5p-16 spans several hosts"):
        kubernetes_jobs.job_manifest("a", "s", "/p", 1, {"mem_mb": 1, "gres": "tpu:8", "tpu_slice": "v5p-16"}, POD)


def test_job_states_are_snakemakes():
    statuses = {"failed": (None, {"failed": 1}), "running": ({}, {"active": 1, "failed": None})}
    for state, each in (statuses | {"success": ({"succeeded": 1},)}).items():
        assert {kubernetes_jobs.job_state(status) for status in each} == {state}


def test_a_pods_sigterm_reaches_the_whole_job_which_may_finish(tmp_path):
    """Kubernetes sends it to the first process of a container only."""
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
    """Waits until a call returns something true, and returns it."""
    for _ in range(seconds * 5):
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError(f"{found} returned nothing in {seconds} s")


@pytest.fixture
def project(tmp_path):
    """The project without results, and a reward that pauses."""
    folder = tmp_path / "project"
    folder.mkdir()
    copy_sources(folder)
    (folder / "paused.py").write_text(PAUSED)
    return folder


def start(project, profile, *arguments, **environment):
    """Starts Snakemake with a profile; its output goes to `snakemake.log`."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", f"profiles/{profile}", "--latency-wait", "10"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SNAKEMAKE_", "SLURM_"))}
    with open(project / "snakemake.log", "w") as log:
        return subprocess.Popen(
            [*command, *arguments], cwd=project, env=inherited | environment, stdout=log, stderr=subprocess.STDOUT
        )


class Kubernetes(BaseHTTPRequestHandler):
    """Creates and reads jobs of the batch API. A job's pod is a process."""

    jobs: ClassVar[dict] = {}

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        container = body["spec"]["template"]["spec"]["containers"][0]
        # The first pod never starts, as if its node were lost.
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
    """Starts the server; returns the configuration file for its clients and the jobs that it gets."""
    for module in ("kubernetes", "snakemake_executor_plugin_cluster_generic"):
        pytest.importorskip(module, reason="needs `make setup-cluster`")
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


@pytest.mark.cluster
@pytest.mark.slow
def test_a_stage_runs_as_a_kubernetes_job(project, kubernetes):
    configuration, jobs = kubernetes
    model = "results/models/tiny/model.json"
    overrides = ("--config", *SMALL, "platform=tpu", "preflight={accelerator: v5e-4}")
    run = start(project, "kubernetes", model, *overrides, KUBECONFIG=str(configuration), JAX_PLATFORMS="cpu")
    assert run.wait(timeout=300) == 0, (project / "snakemake.log").read_text()[-3000:]
    assert files.read_json(project / model)["parameters"] > 0
    lost, again = jobs.values()  # the first pod was lost, so Snakemake sent the job again
    assert lost["pod"] is None and again["pod"].returncode == 0
    assert again["path"] == "/apis/batch/v1/namespaces/default/jobs"
    pod = again["body"]["spec"]["template"]["spec"]
    limits = pod["containers"][0]["resources"]
    assert limits["limits"] == {"google.com/tpu": "4"} and int(limits["requests"]["memory"].removesuffix("M")) > 4000
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x2"
    assert pod["containers"][0]["workingDir"] == str(project)
    # `download` needs a network and no accelerator: it ran where Snakemake runs.
    assert {name.rpartition("-")[0] for name in jobs} == {"base-model"}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def slurm(tmp_path):
    """Starts a SLURM of one node with one accelerator, without accounting."""
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="needs `make setup-cluster`")
    if os.getuid() or not all(map(shutil.which, DAEMONS)):
        pytest.skip("needs root and Debian's slurmctld, slurmd, slurm-client and munge")
    if SLURM_CONF.exists():
        pytest.skip(f"{SLURM_CONF}: this machine already has a SLURM")
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
    SLURM_CONF.parent.mkdir(exist_ok=True)
    links = [SLURM_CONF, SLURM_CONF.with_name("gres.conf")]
    daemons = []
    try:
        for link in links:
            link.symlink_to(folder / link.name)
        munge_files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        for command in (
            ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge_files],
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


def slurm_jobs(rule):
    """{number: (state, generic resources)} of the jobs whose comment (rule and wildcards) contains `rule`."""
    done = subprocess.run(
        ["squeue", "--states=all", "--noheader", "--format=%i|%T|%k|%b"], capture_output=True, text=True
    )
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {number: (state, gres) for number, state, comment, gres in rows if rule in comment}


@pytest.mark.cluster
@pytest.mark.slow
def test_a_sweep_runs_through_slurm_and_a_killed_job_continues(project, slurm):
    sweep = (
        "results/report.html",
        "--slurm-status-command",
        "squeue",
        "--slurm-init-seconds-before-status-checks",
        "1",
    )
    overrides = ("--config", "seeds=[0,1]", "platform=cuda", *SMALL, TRAINING)
    on_this_machine = {"JAX_PLATFORMS": "cpu", jax_setup.PLATFORM_VARIABLE: "cpu"}
    run = start(project, "slurm", *sweep, *overrides, **on_this_machine)
    try:
        wait_for(lambda: (project / "paused").exists() or run.poll() is not None, 900)
        assert run.poll() is None, (project / "snakemake.log").read_text()[-3000:]
        training = slurm_jobs("rule_train")
        # One training has the node's accelerator, the other waits for it.
        assert {gres for _, gres in training.values()} == {"gres:gpu:1"}
        (running,) = [number for number, (state, _) in training.items() if state == "RUNNING"]
        assert sum(state == "RUNNING" for state, _ in slurm_jobs("rule_").values()) == 1
        subprocess.run(["scancel", running], check=True)
        assert run.wait(timeout=900) == 0, (project / "snakemake.log").read_text()[-3000:]
    finally:
        run.terminate()
    summaries = [files.read_json(project / f"results/tiny-seed-{seed}/training/summary.json") for seed in (0, 1)]
    # The killed training had saved two steps and continued from there; the other one started once.
    assert sorted(each["starts"] for each in summaries) == [[0], [0, 2]]
    assert all(each["steps"] == STEPS for each in summaries)
    assert len(slurm_jobs("rule_train")) == 3 and {"CANCELLED", "COMPLETED"} == {
        state for state, _ in slurm_jobs("rule_train").values()
    }
    # Both seeds share one model; one report compares them.
    assert len(slurm_jobs("rule_base_model")) == 1
    assert [path.name for path in (project / "results" / "models").iterdir()] == ["tiny"]
    assert files.read_json(project / "results" / "tiny" / "seeds.json")
    assert files.read_json(project / "results" / "comparison-of-recipes.json")
    page = (project / "results" / "report.html").read_text()
    assert "tiny-seed-0" in page and "tiny-seed-1" in page
    assert len(slurm_jobs("rule_evaluate")) == 6  # base, final and best of each

    again = start(project, "slurm", *sweep, *overrides)
    assert again.wait(timeout=300) == 0 and "Nothing to be done" in (project / "snakemake.log").read_text()
