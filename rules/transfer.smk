# Does what was learned carry over? Other sets of problems, which rule `evaluate` evaluates like every other split.


rule transfer_rows:
    output:
        rows=update("results/data/{transfer}/test.jsonl"),
        manifest=update("results/data/{transfer}/dataset.json"),
    log:
        "results/logs/data/{transfer}/transfer_rows.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("transfer_rows"),
        chosen=lambda wildcards: files.canonical_json(TRANSFER[wildcards.transfer]),
        file_hash=as_json(transfer_hash),
    message:
        "Get the set {wildcards.transfer}"
    shell:
        stage(
            "transfer_rows",
            '--chosen {params.chosen:q} --output "$(dirname {output.rows:q})"',
            facts="{params.file_hash:q}",
        )


rule transfer_prompts:
    input:
        rows="results/data/{transfer}/test.jsonl",
        model=model_file("model.json"),
        tokenizer=model_file("tokenizer.model"),
    output:
        prompts=update("results/{recipe}/transfer/{transfer}/prompts/test.jsonl"),
        summary=update("results/{recipe}/transfer/{transfer}/prompts/summary.json"),
    log:
        "results/logs/{recipe}/transfer/{transfer}-prompts.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("transfer_prompts"),
        **stage_settings("prompt"),
    message:
        "Write the prompts of {wildcards.recipe} for {wildcards.transfer}"
    shell:
        stage(
            "transfer_prompts",
            "--settings {params.settings_file:q} --rows {input.rows:q} "
            '--model "$(dirname {input.model:q})" --output "$(dirname {output.summary:q})"',
        )


rule transfer:
    input:
        settings="results/{recipe}/settings.yaml",
        own="results/{recipe}/comparison.json",
        train=data_file("train.jsonl"),
        test=branch(
            lambda wildcards: SETTINGS[wildcards.recipe]["evaluation"]["split"] == "test",
            then=data_file("test.jsonl"),
            otherwise=[],
        ),
        rows=lambda wildcards: expand(
            "results/data/{name}/{file}",
            name=[each["name"] for each in SETTINGS[wildcards.recipe]["evaluation"]["transfer"]],
            file=("test.jsonl", "dataset.json"),
        ),
        completions=expand(
            "results/{{recipe}}/evaluations/{checkpoint}/completions.jsonl",
            checkpoint=("base", "final"),
        ),
        prompts=lambda wildcards: expand(
            "results/{recipe}/transfer/{name}/prompts/summary.json",
            recipe=wildcards.recipe,
            name=transfer_of(wildcards.recipe),
        ),
        evaluations=lambda wildcards: expand(
            "results/{recipe}/transfer/{name}/{checkpoint}/{file}",
            recipe=wildcards.recipe,
            name=transfer_of(wildcards.recipe),
            checkpoint=("base", "final", "best"),
            file=("completions.jsonl", "metrics.json"),
        ),
    output:
        compared=update("results/{recipe}/transfer.json"),
        plot=update("results/{recipe}/plots/transfer.svg"),
    log:
        "results/logs/{recipe}/transfer.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("transfer"),
    message:
        "Compare {wildcards.recipe} before and after training on other sets"
    shell:
        stage(
            "transfer",
            "--results results --run {wildcards.recipe:q} --output {output.compared:q} "
            "--plot {output.plot:q}",
        )
