# Loading and validation of settings, and what the rules have in common. No rules here.
#
# Each rule has inputs, outputs and `stage(NAME, OPTIONS)`, which runs scripts/NAME.py through scripts/stage.py. It runs
# again when an input or a parameter changes; the parameters are settings and `rerun_on(NAME)`.
#
# A stage reads its settings from a file, since Linux gives an argument 128 KiB only. The file is named after its content
# and written before the first job, so a job on a cluster gets what it was planned with.
#
# Each stage keeps a record of what made its outputs (common/stage_record.py). Snakemake runs every stage that it has no
# notes of, as in a copy from another machine. Where the outputs are there and fit their record, the stage keeps them.
#
# All outputs are in `update`: when a job fails, Snakemake puts the former files back, and then takes them for finished
# under the new settings. So a failed job leaves a mark, which is a parameter too: another mark than the one of the last
# run means that the job is tried again.
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, str(Path(workflow.basedir, "scripts")))
# As in the Makefile, which says why.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Whatever the locale: JAX, and what reads and writes weights, take a folder's name for UTF-8.
os.environ.update(PYTHONUTF8="1")

from gsm8k_grpo.common import files, jax_setup, layout, session_end, stage_record
from gsm8k_grpo.common.errors import NOT_FINISHED_STATUS, PipelineError
from gsm8k_grpo.common.source_hash import source_hash
from gsm8k_grpo.common.stage_runner import NOT_FINISHED
from gsm8k_grpo.config import job_resources
from gsm8k_grpo.config.merging import WITHOUT_RESULT, merge, parse_scalars, read_yaml
from gsm8k_grpo.config.recipes import load_selected, runs_by_recipe
from gsm8k_grpo.config.schema import Settings
from gsm8k_grpo.data import model_files, own_files
from gsm8k_grpo.data.transfer_sets import SECOND_GOLD
from gsm8k_grpo.grpo.kept_checkpoints import checkpoint_names
from gsm8k_grpo.internals.snakemake_internals import run_what_has_no_notes
from gsm8k_grpo.preflight import disk, sessions
from gsm8k_grpo.rewards import custom


def load_settings():
    """Each selected recipe's effective settings, by name; a fault in them ends Snakemake with one sentence."""
    try:
        overrides = merge(
            workflow.config_settings.overwrite_config,
            parse_scalars(workflow.config_settings.config),
        )
        return load_selected(config["recipes"], overrides)
    except PipelineError as error:
        raise WorkflowError(str(error))


def say_sessions():
    """Says how many sessions of `stop_after_hours` are left, as far as a preflight or the steps so far can tell."""
    if not STOP_AFTER_HOURS:
        return
    for sentence in sessions.session_sentences(Path("results"), SETTINGS, STOP_AFTER_HOURS):
        print(f"sessions: {sentence}", file=sys.stderr)


SETTINGS = load_settings()
if fault := disk.unwritable([Path("results"), Path(".snakemake")]):
    raise WorkflowError(fault)
IMAGE = "showing-its-work.sif"
in_container = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
if in_container and not Path(IMAGE).exists():
    raise WorkflowError(
        f"{IMAGE}: no such file; --sdm apptainer runs the stages in this image, and "
        "docs/getting-started.md says how to make it"
    )
# Recipes may share data sets and models; load_settings has made sure that they mean the same by one name.
DATASETS = {chosen["dataset"]["name"]: chosen for chosen in SETTINGS.values()}
MODELS = {chosen["model"]["name"]: chosen for chosen in SETTINGS.values()}
# Sets of other problems that runs are evaluated on, by name (evaluation.transfer).
TRANSFER = {
    each["name"]: each for chosen in SETTINGS.values() for each in chosen["evaluation"]["transfer"]
}
# The folders of evaluations below a run's (`split_of`).
EVALUATIONS = ["evaluations", "evaluations-dev", *(f"transfer/{name}" for name in TRANSFER)]
# The runs of each recipe that has several seeds.
SEEDED = runs_by_recipe(SETTINGS)
# The files of settings that stages may ask for, by path.
SETTINGS_FILES = {}
# The marks of failed jobs, as this run found them (`last_failure`).
MARKS = {}
ENVIRONMENT = f"../envs/{config['platform']}.yaml"
# The Python that runs Snakemake runs the stages too; with --sdm conda, the environment's own goes before it.
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
)
os.environ.setdefault(jax_setup.PLATFORM_VARIABLE, config["platform"])
STOP_AFTER_HOURS = min(
    (each["stop_after_hours"] for each in SETTINGS.values() if each["stop_after_hours"]),
    default=None,
)
# Counted from here, so for the whole run; a job on a cluster counts from its own beginning.
if STOP_AFTER_HOURS:
    session_end.set_session_end(STOP_AFTER_HOURS)
# Not in the processes that Snakemake starts for single jobs: the job is decided on.
if workflow.is_main_process:
    run_what_has_no_notes(
        lambda command: stage_record.is_other(command, SETTINGS_FILES), stage_record.is_damaged
    )
    if too_little := disk.shortage(Path("results"), SETTINGS):
        print(f"WARNING: {too_little}", file=sys.stderr)
    for missing in own_files.missing_files(Path("results"), SETTINGS):
        print(f"WARNING: {missing}", file=sys.stderr)
    say_sessions()


wildcard_constraints:
    recipe="|".join(map(re.escape, SETTINGS)),
    dataset="|".join(map(re.escape, DATASETS)),
    model="|".join(map(re.escape, MODELS)),
    seeded="|".join(map(re.escape, SEEDED)),
    # (?!) matches nothing: an empty pattern would be none.
    transfer="|".join(map(re.escape, TRANSFER)) or "(?!)",
    evaluations="|".join(map(re.escape, EVALUATIONS)),
    checkpoint="base|step-[0-9]+|final|best",


def blocks(chosen, *names, with_transfer=False):
    """Some blocks of settings as one JSON text.

    Usually without `evaluation.transfer`: a set more or less starts no other stage again.
    """
    kept = {name: chosen[name] for name in names}
    if "evaluation" in kept and not with_transfer:
        kept["evaluation"] = {
            key: value for key, value in kept["evaluation"].items() if key != "transfer"
        }
    return files.canonical_json(kept)


def stage_settings(*names, owners=SETTINGS, owner="{recipe}", with_transfer=False):
    """Parameters of a stage that needs these blocks: `settings`, which makes it rerun, and `settings_file`.

    `owners` has the settings of each `owner`, a text of wildcards; `with_transfer` is as in `blocks`.
    """
    texts = {
        name: blocks(chosen, *names, with_transfer=with_transfer) for name, chosen in owners.items()
    }
    paths = {
        name: f"results/logs/settings/{files.sha256_text(text)[:16]}.json"
        for name, text in texts.items()
    }
    SETTINGS_FILES.update((paths[name], text) for name, text in texts.items())
    return {
        "settings": lambda wildcards: texts[owner.format(**wildcards)],
        "settings_file": lambda wildcards: paths[owner.format(**wildcards)],
    }


def options(input, *names):
    """The options of a stage for those of its inputs that there are, each with its paths."""
    found = {name: input.get(name) for name in names if input.get(name)}
    return [
        part
        for name, paths in found.items()
        for part in [f"--{name}", *([paths] if isinstance(paths, str) else paths)]
    ]


def write_settings_files():
    """Writes the settings of all stages that this run may have."""
    try:
        for path, text in SETTINGS_FILES.items():
            files.write_text(path, f"{text}\n")
    except OSError as error:
        raise WorkflowError(
            f"{error.filename} cannot be written ({error.strerror}); free some space or make the folder writable"
        )


def job_resource(resource):
    """What a stage that runs a model asks a cluster's scheduler for."""

    def amount(wildcards):
        if "recipe" in wildcards.keys():
            chosen, where = SETTINGS[wildcards.recipe], f"recipe {wildcards.recipe}"
        else:
            chosen, where = MODELS[wildcards.model], f"model {wildcards.model}"
            # A download needs no accelerator, for hours; the pretraining of a miniature does.
            if resource != "mem_mb" and chosen["model"]["source"] != "pretrained":
                return ""
        try:
            return job_resources.RESOURCES[resource](chosen)
        except PipelineError as error:
            raise WorkflowError(f"{where}: {error}")

    return amount


# The `resources` of stages that run a model. On one machine `accelerator` alone counts: one such job at a time.
RUNS_A_MODEL = {"accelerator": 1} | {name: job_resource(name) for name in job_resources.RESOURCES}


def stage(name, options, facts="", path=None):
    """The shell command of a rule: `scripts/NAME.py OPTIONS`, its log kept and its failure noted.

    Where what it makes depends on more than its options, code and inputs, `facts` are JSON texts that say so. With
    `path`, a folder that goes before the others on PATH.
    """
    before = f'PATH="{path}:$PATH" ' if path else ""
    return (
        f"{before}python3 scripts/stage.py --log {{log:q}} --mark {{params.mark:q}} "
        f"--record {{params.record:q}} --code {{params.code:q}} --facts {facts} --inputs {{input:q}} "
        f"--outputs {{output:q}} -- python3 scripts/{name}.py {options}"
    )


def rerun_on(name):
    """Parameters that start a stage again: its code changed its meaning, or its last job failed.

    They depend on wildcards alone: Snakemake does not compare parameters that depend on inputs or outputs.
    """

    def mark(wildcards):
        """The file that a failed job leaves."""
        return f"results/logs/failures/{'-'.join([name, *wildcards])}"

    def record(wildcards):
        """The file that a finished job leaves."""
        return f"results/records/{'-'.join([name, *wildcards])}.json"

    return {
        "code": f"scripts/{name}.py and its modules {source_hash(name)}",
        "mark": mark,
        "record": record,
        "failure": lambda wildcards: last_failure(mark(wildcards)),
    }


def last_failure(mark):
    """What the mark of the last failed job says; another text than the last time starts a stage again."""
    path = Path(mark)
    if path not in MARKS:
        # A full disk leaves the mark empty: then its time tells it from others.
        found = path.is_file() and (path.read_text() or str(path.stat().st_mtime_ns))
        MARKS[path] = f"failed at {found.strip()}" if found else "none"
    return MARKS[path]


def note_what_is_forced():
    """Tells the stages which of them the command line wants to be made anew, whatever their records say."""
    asked = workflow.dag_settings
    forced = (
        ["*"]
        if asked.forceall
        else [*asked.forcerun, *(asked.targets if asked.forcetargets else ())]
    )
    os.environ[stage_record.FORCED_VARIABLE] = "\n".join(map(str, forced))


def forget_retried_failures():
    """Puts the marks back to what this run's jobs are recorded with: one that failed was sent again, and succeeded."""
    for path, found in MARKS.items():
        if found == "none":
            path.unlink(missing_ok=True)
        elif path.is_file():
            path.write_text(found.removeprefix("failed at "))


def say_what_is_not_finished():
    """At the end of a run whose stages stopped themselves: says so, and ends Snakemake with the status of such a stage.

    Where another job failed too, Snakemake ends as with any failure.
    """
    failed = [
        path
        for path, found in MARKS.items()
        if path.is_file() and found != f"failed at {path.read_text().strip()}"
    ]
    marks = Path("results/logs/failures")
    stopped = [
        path.relative_to(marks).as_posix()
        for path in failed
        if path.read_text().strip().endswith(NOT_FINISHED)
    ]
    if not stopped:
        return
    print(
        f"NOT FINISHED: {', '.join(stopped)} stopped because the session ends (stop_after_hours). All work so far is "
        "saved. Run the same command again: it goes on from there.",
        file=sys.stderr,
    )
    if len(stopped) == len(failed):
        sys.exit(NOT_FINISHED_STATUS)


def repeat_audit_warnings():
    """Says at the end of a run, too, what the reward audits warn of: by then the stage's own line is far up."""
    for recipe in SETTINGS:
        try:
            audit = files.read_json_object(f"results/{recipe}/reward_audit.json")
        except PipelineError:  # this run did not ask for it
            continue
        if audit.get("warning"):
            print(f"WARNING: {recipe}: {audit['warning']}", file=sys.stderr)


def data_file(name):
    """A file of the data set of a rule's recipe."""
    return lambda wildcards: (
        f"results/data/{SETTINGS[wildcards.recipe]['dataset']['name']}/{name}"
    )


def model_file(name):
    """A file of the base model of a rule's recipe."""
    return lambda wildcards: (
        f"results/models/{SETTINGS[wildcards.recipe]['model']['name']}/{name}"
    )


def reward_files(wildcards):
    """The files of a recipe's rewards that are the user's own."""
    return custom.reward_files(SETTINGS[wildcards.recipe]["training"]["rewards"])


def split_of(wildcards):
    """The split that a folder of evaluations is on: `evaluations` on the recipe's, `evaluations-dev` on dev.

    `transfer/NAME` is on all rows of another set, which are its test.
    """
    named = SETTINGS[wildcards.recipe]["evaluation"]["split"]
    folders = {"evaluations": named, "evaluations-dev": "dev"}
    return folders.get(wildcards.evaluations, "test")


def rows_of(wildcards):
    """The prompts that a folder of evaluations is on."""
    if wildcards.evaluations.startswith("transfer/"):
        return f"results/{wildcards.recipe}/{wildcards.evaluations}/prompts/test.jsonl"
    return f"results/{wildcards.recipe}/prompts/{split_of(wildcards)}.jsonl"


def evaluated_by(chosen, evaluations):
    """The settings of an evaluation. Of another set, all rows count, and decoding is greedy."""
    if not evaluations.startswith("transfer/"):
        return chosen
    greedy = {"rows": None, "temperature": 0, "samples": 1}
    return chosen | {"evaluation": chosen["evaluation"] | greedy}


def transfer_of(recipe):
    """The names of the other sets that a recipe is evaluated on; a second gold for its own rows is none."""
    named = [each["name"] for each in SETTINGS[recipe]["evaluation"]["transfer"]]
    return [name for name in named if name != SECOND_GOLD]


def selection(recipe, name="metrics.json"):
    """The metrics of all checkpoints of a recipe on dev, base first: what the best one is chosen on.

    Or another file of these evaluations.
    """
    chosen = SETTINGS[recipe]
    folder = "evaluations" if chosen["evaluation"]["split"] == "dev" else "evaluations-dev"
    names = checkpoint_names(chosen["training"])
    return [f"results/{recipe}/{folder}/{checkpoint}/{name}" for checkpoint in names]


def evaluated_prompts(recipe):
    """The prompts that a recipe's evaluations are on."""
    return f"results/{recipe}/prompts/{SETTINGS[recipe]['evaluation']['split']}.jsonl"


def questions_of(recipe):
    """The prompts and the data set's rows that a recipe's evaluations are on."""
    chosen = SETTINGS[recipe]
    split = chosen["evaluation"]["split"]
    rows = layout.dataset_rows(Path("results"), chosen["dataset"]["name"], split)
    return [evaluated_prompts(recipe), str(rows)]


def same_evaluations(wildcards):
    """Evaluations that may be the very one wanted: then their rows are taken over, and nothing is computed twice."""
    folder = wildcards.evaluations
    if wildcards.checkpoint == "best":
        final = f"results/{wildcards.recipe}/{folder}/final/metrics.json"
        on_dev = split_of(wildcards) == "dev"
        return selection(wildcards.recipe) if on_dev else [final]
    if wildcards.checkpoint != "base":
        return []
    parts = ("mesh", "dataset", "model", "prompt", "evaluation")
    wanted = blocks(evaluated_by(SETTINGS[wildcards.recipe], folder), *parts)
    first = next(
        name
        for name, chosen in SETTINGS.items()
        if blocks(evaluated_by(chosen, folder), *parts) == wanted
        and (not folder.startswith("transfer/") or folder.partition("/")[2] in transfer_of(name))
    )
    shared = f"results/{first}/{folder}/base/metrics.json"
    return [] if first == wildcards.recipe else [shared]


def same_model(wildcards):
    """The first miniature that is pretrained in just the same way: its weights are taken over, not trained again."""

    def made_from(chosen):
        model = chosen["model"]
        return [chosen["dataset"]["name"], model["architecture"], model["pretraining"]]

    wanted = MODELS[wildcards.model]
    if wanted["model"]["source"] != "pretrained":
        return []
    alike = [
        name
        for name, chosen in MODELS.items()
        if chosen["model"]["source"] == "pretrained" and made_from(chosen) == made_from(wanted)
    ]
    return [] if alike[0] == wildcards.model else [f"results/models/{alike[0]}/model.json"]


def as_json(found):
    """A parameter of what a function of wildcards finds: where it finds something else, the stage runs again."""
    return lambda wildcards: files.canonical_json(found(wildcards))


def source_hashes(wildcards):
    """Hashes of the published files: other contents rerun `download`; another mtime, or a file removed, does not."""
    dataset = DATASETS[wildcards.dataset]["dataset"]
    if dataset["source"] != "jsonl":
        return {}
    paths = [Path(dataset["path"], name) for name in ("train.jsonl", "test.jsonl")]
    manifest = Path("results", "data", wildcards.dataset, "dataset.json")
    if not all(path.is_file() for path in paths) and manifest.is_file():
        return files.read_json(manifest)["origin"].get("sha256", {})
    return {path.name: files.sha256_file(path) for path in paths if path.is_file()}


def transfer_hash(wildcards):
    """The hash of a set's own file, where it is on this machine: other contents rerun `transfer_rows`."""
    chosen = TRANSFER[wildcards.transfer]
    if not chosen["path"] or chosen["handle"]:
        return {}
    path = Path(chosen["path"])
    manifest = Path("results", "data", wildcards.transfer, "dataset.json")
    if not path.is_file() and manifest.is_file():
        return files.read_json(manifest)["origin"]["sha256"]
    return {path.name: files.sha256_file(path)} if path.is_file() else {}


def found_tokenizer(wildcards):
    """The tokenizer of a recipe's base model, if it is there."""
    path = model_file("tokenizer.model")(wildcards)
    return [path] if Path(path).is_file() else []


def local_model_hashes(wildcards):
    """Hashes of the files of a model from a local folder: other contents rerun `base_model`.

    What did not change since it was read is not read again.
    """
    chosen = MODELS[wildcards.model]["model"]
    if chosen["source"] != "local":
        return {}
    manifest, known, since = Path("results", "models", wildcards.model, "model.json"), {}, 0
    if manifest.is_file():
        origin = files.read_json(manifest)["origin"]
        # Not the time of model.json, which a copy changes.
        since = stage_record.made_at_seconds(
            Path(f"results/records/base_model-{wildcards.model}.json")
        )
        known = origin["files"] if origin.get("path") == chosen["path"] else {}
    folder = Path(chosen["path"])
    found = model_files.local_hashes(folder, known, since) if folder.is_dir() else known
    return {name: facts["sha256"] for name, facts in found.items()}


def tfds_files(wildcards):
    """The rows from TensorFlow Datasets, where a data set comes from there."""
    if DATASETS[wildcards.dataset]["dataset"]["source"] != "tfds":
        return []
    folder = f"results/data/{wildcards.dataset}/tfds"
    return [f"{folder}/{name}" for name in ("train.jsonl", "test.jsonl", "origin.json")]


def pretraining_file(name):
    """A file of the data set that a miniature is pretrained on; a downloaded model needs none."""

    def path(wildcards):
        chosen = MODELS[wildcards.model]
        if chosen["model"]["source"] != "pretrained":
            return []
        return f"results/data/{chosen['dataset']['name']}/{name}"

    return path
