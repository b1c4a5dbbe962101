# Does the base model write the format at all, and what do the rewards pay for? Then GRPO with LoRA. The checkpoints
# themselves are undeclared: Snakemake would delete them when a job fails. They lie under
# results/RECIPE/training/runs/FINGERPRINT, where a killed run finds them again; the declared files are written last.


rule format_check:
    input:
        rows="results/{recipe}/prompts/dev.jsonl",
        model=model_file("model.json"),
        tokenizer=model_file("tokenizer.model"),
    output:
        update("results/{recipe}/format_check.json"),
    log:
        "results/logs/{recipe}/format_check.log",
    # Before training, which waits for the same files. As an input of `train`, it would make that run again after it.
    priority: 1
    conda:
        ENVIRONMENT
    resources:
        **RUNS_A_MODEL,
    params:
        **rerun_on("format_check"),
        **stage_settings("seed", "mesh", "prompt", "training"),
    message:
        "Check whether the base model of {wildcards.recipe} writes the format"
    shell:
        stage(
            "format_check",
            "--settings {params.settings_file:q} --rows {input.rows:q} "
            '--model "$(dirname {input.model:q})" --output {output:q}',
        )


rule reward_audit:
    input:
        rewards=reward_files,
        rows="results/{recipe}/prompts/dev.jsonl",
        solutions=data_file("train.jsonl"),
        base=lambda wildcards: selection(wildcards.recipe, "completions.jsonl")[0],
    output:
        update("results/{recipe}/reward_audit.json"),
    log:
        "results/logs/{recipe}/reward_audit.log",
    # Before training too. Even as an `ancient` input of `train` it would do harm: Snakemake 9 does not look for reasons
    # to run what comes after a job that runs.
    priority: 1
    conda:
        ENVIRONMENT
    params:
        **rerun_on("reward_audit"),
        **stage_settings("seed", "prompt", "training"),
    message:
        "Audit what the rewards of {wildcards.recipe} pay for"
    shell:
        stage(
            "reward_audit",
            "--settings {params.settings_file:q} --rows {input.rows:q} --solutions {input.solutions:q} "
            "--base {input.base:q} --output {output:q}",
        )


rule train:
    input:
        rewards=reward_files,
        rows="results/{recipe}/prompts/train.jsonl",
        model=model_file("model.json"),
        tokenizer=model_file("tokenizer.model"),
    output:
        checkpoints=update("results/{recipe}/training/checkpoints.json"),
        metrics=update("results/{recipe}/training/metrics.csv"),
        samples=update("results/{recipe}/training/samples.jsonl"),
        summary=update("results/{recipe}/training/summary.json"),
    log:
        "results/logs/{recipe}/train.log",
    conda:
        ENVIRONMENT
    resources:
        **RUNS_A_MODEL,
    params:
        **rerun_on("train"),
        **stage_settings("seed", "mesh", "prompt", "training"),
    message:
        "Train {wildcards.recipe}"
    shell:
        stage(
            "train",
            "--settings {params.settings_file:q} --rows {input.rows:q} "
            '--model "$(dirname {input.model:q})" --output "$(dirname {output.checkpoints:q})"',
        )
