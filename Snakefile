# GRPO on GSM8K, from raw questions to a report: `snakemake --cores 1 results/report.html`.
# Settings: config.yaml and recipes/. One file of rules a theme: rules/. What the rules run: scripts/.
import logging

from snakemake.utils import min_version

# Where the disk is full, Snakemake's own log is too, and each line of it would print a traceback.
logging.raiseExceptions = False

min_version("9.0")


configfile: "config.yaml"


include: "rules/common.smk"


container: IMAGE  # in which every stage runs with --sdm apptainer


include: "rules/data.smk"
include: "rules/model.smk"
include: "rules/training.smk"
include: "rules/evaluation.smk"
include: "rules/transfer.smk"
include: "rules/preflight.smk"
include: "rules/report.smk"
include: "rules/export.smk"


# What takes seconds and no model is not worth a job on a cluster; `download` wants a network, which its nodes may lack.
localrules:
    all,
    download,
    tfds_rows,
    prompts,
    transfer_rows,
    transfer_prompts,
    reward_audit,
    settings,
    best,
    score,
    compare,
    transfer,
    compare_recipes,
    over_seeds,
    plots,
    tables,
    report,


onstart:
    write_settings_files()
    note_what_is_forced()


onsuccess:
    forget_retried_failures()
    repeat_audit_warnings()
    say_sessions()


onerror:
    say_sessions()
    say_what_is_not_finished()


rule all:
    default_target: True
    input:
        "results/report.html",
