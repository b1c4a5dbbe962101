# Base model and checkpoints by one rule: all of them on dev, which decides what is best; base, best and final on test.


rule evaluate:
    input:
        rows=rows_of,
        model=model_file("model.json"),
        tokenizer=model_file("tokenizer.model"),
        checkpoints=branch(
            lambda wildcards: wildcards.checkpoint == "base",
            then=[],
            otherwise="results/{recipe}/training/checkpoints.json",
        ),
        best=branch(
            lambda wildcards: wildcards.checkpoint == "best",
            then="results/{recipe}/best.json",
            otherwise=[],
        ),
        same=same_evaluations,
    output:
        completions=update("results/{recipe}/{evaluations}/{checkpoint}/completions.jsonl"),
        metrics=update("results/{recipe}/{evaluations}/{checkpoint}/metrics.json"),
    log:
        "results/logs/{recipe}/{evaluations}-{checkpoint}.log",
    # The base model before training: the reward audit reads its completions, and warns before the first step.
    priority: 1
    conda:
        ENVIRONMENT
    resources:
        **RUNS_A_MODEL,
    params:
        **rerun_on("evaluate"),
        **stage_settings(
            "mesh",
            "prompt",
            "evaluation",
            owners={
                f"{recipe}/{evaluations}": evaluated_by(chosen, evaluations)
                for recipe, chosen in SETTINGS.items()
                for evaluations in EVALUATIONS
            },
            owner="{recipe}/{evaluations}",
        ),
        split=split_of,
        files=lambda wildcards, input: options(input, "checkpoints", "best", "same"),
    message:
        "Evaluate {wildcards.checkpoint} of {wildcards.recipe} (to {wildcards.evaluations})"
    shell:
        stage(
            "evaluate",
            "--settings {params.settings_file:q} --rows {input.rows:q} --split {params.split:q} "
            '--model "$(dirname {input.model:q})" --checkpoint {wildcards.checkpoint:q} '
            '{params.files:q} --output "$(dirname {output.metrics:q})"',
        )


rule best:
    input:
        metrics=lambda wildcards: selection(wildcards.recipe),
    output:
        update("results/{recipe}/best.json"),
    log:
        "results/logs/{recipe}/best.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("best"),
    message:
        "Choose the best checkpoint of {wildcards.recipe} on dev"
    shell:
        stage("best", "--metrics {input.metrics:q} --output {output:q}")


rule compare:
    input:
        base="results/{recipe}/evaluations/base/completions.jsonl",
        final="results/{recipe}/evaluations/final/completions.jsonl",
        best="results/{recipe}/evaluations/best/completions.jsonl",
    output:
        update("results/{recipe}/comparison.json"),
    log:
        "results/logs/{recipe}/compare.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("compare"),
        **stage_settings("prompt", "evaluation"),
    message:
        "Compare {wildcards.recipe} before and after training"
    shell:
        stage(
            "compare",
            "--settings {params.settings_file:q} --base {input.base:q} --final {input.final:q} "
            "--best {input.best:q} --output {output:q}",
        )


rule score:
    input:
        rewards=reward_files,
        rows=lambda wildcards: evaluated_prompts(wildcards.recipe),
        base="results/{recipe}/evaluations/base/completions.jsonl",
        final="results/{recipe}/evaluations/final/completions.jsonl",
        best="results/{recipe}/evaluations/best/completions.jsonl",
    output:
        update("results/{recipe}/rewards.jsonl"),
    log:
        "results/logs/{recipe}/score.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("score"),
        **stage_settings("prompt", "training"),
    message:
        "Give the rewards of {wildcards.recipe} to the evaluated completions"
    shell:
        stage(
            "score",
            "--settings {params.settings_file:q} --rows {input.rows:q} --base {input.base:q} "
            "--final {input.final:q} --best {input.best:q} --output {output:q}",
        )


rule compare_recipes:
    input:
        settings=expand("results/{recipe}/settings.yaml", recipe=SETTINGS),
        data=expand(
            "results/data/{dataset}/{split}.jsonl", dataset=DATASETS, split=("train", "test")
        ),
        final=expand("results/{recipe}/evaluations/final/completions.jsonl", recipe=SETTINGS),
        metrics=expand(
            "results/{recipe}/evaluations/{checkpoint}/metrics.json",
            recipe=SETTINGS,
            checkpoint=("base", "final", "best"),
        ),
        training=expand(
            "results/{recipe}/training/{name}",
            recipe=SETTINGS,
            name=("summary.json", "metrics.csv"),
        ),
    output:
        compared=update("results/comparison-of-recipes.json"),
        plot=report(
            update("results/accuracy-against-cost.svg"),
            category="Plots",
            labels={"run": "all", "plot": "accuracy against cost"},
        ),
    log:
        "results/logs/compare_recipes.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("compare_recipes"),
        recipes=list(SETTINGS),
    message:
        "Compare the runs with each other"
    shell:
        stage(
            "compare_recipes",
            "--results results --recipes {params.recipes:q} --output {output.compared:q} "
            "--plot {output.plot:q}",
        )


rule over_seeds:
    input:
        metrics=lambda wildcards: expand(
            "results/{run}/evaluations/{checkpoint}/metrics.json",
            run=SEEDED[wildcards.seeded],
            checkpoint=("base", "final", "best"),
        ),
    output:
        update("results/{seeded}/seeds.json"),
    log:
        "results/logs/{seeded}/over_seeds.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("over_seeds"),
        runs=lambda wildcards: SEEDED[wildcards.seeded],
    message:
        "Summarise {wildcards.seeded} over its seeds"
    shell:
        stage("over_seeds", "--results results --runs {params.runs:q} --output {output:q}")
