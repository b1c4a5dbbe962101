# Base model and checkpoints by one rule: all of them on dev, which decides what is best; base, best and final on test.


rule evaluate:
    input:
        code=code.files("evaluate"),
        rows=lambda wildcards: f"results/{wildcards.recipe}/prompts/{split_of(wildcards)}.jsonl",
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
    conda:
        ENVIRONMENT
    resources:
        accelerator=1,
        mem_mb=of_cluster("mem_mb"),
        gres=of_cluster("gres"),
        tpu_slice=of_cluster("tpu_slice"),
    params:
        retry=last_failure("results/logs/{recipe}/{evaluations}-{checkpoint}.log"),
        settings=recipe_blocks("mesh", "prompt", "evaluation"),
        split=split_of,
        files=lambda wildcards, input: " ".join(
            f"--{option} {path}"
            for option in ("checkpoints", "best", "same")
            for path in [input.get(option)]
            if path
        ),
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} --rows {input.rows:q} "
        "--split {params.split} --model $(dirname {input.model:q}) --checkpoint {wildcards.checkpoint} "
        "{params.files} --output $(dirname {output.metrics:q}) 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"


rule best:
    input:
        code=code.files("best"),
        metrics=lambda wildcards: selection(wildcards.recipe),
    output:
        update("results/{recipe}/best.json"),
    log:
        "results/logs/{recipe}/best.log",
    conda:
        ENVIRONMENT
    params:
        retry=last_failure("results/logs/{recipe}/best.log"),
    shell:
        "python3 {input.code[0]} --metrics {input.metrics:q} "
        "--output {output:q} 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"


rule compare:
    input:
        code=code.files("compare"),
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
        retry=last_failure("results/logs/{recipe}/compare.log"),
        settings=recipe_blocks("evaluation"),
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} --base {input.base:q} "
        "--final {input.final:q} --best {input.best:q} --output {output:q} 2>&1 | "
        "(trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"


rule score:
    input:
        code=code.files("score"),
        rewards=reward_files,
        rows=lambda wildcards: (
            f"results/{wildcards.recipe}/prompts/"
            f"{SETTINGS[wildcards.recipe]['evaluation']['split']}.jsonl"
        ),
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
        retry=last_failure("results/logs/{recipe}/score.log"),
        settings=recipe_blocks("prompt", "training"),
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} --rows {input.rows:q} "
        "--base {input.base:q} --final {input.final:q} --best {input.best:q} "
        "--output {output:q} 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"


rule compare_recipes:
    input:
        code=code.files("compare_recipes"),
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
        plot=update("results/accuracy-against-cost.svg"),
    log:
        "results/logs/compare_recipes.log",
    conda:
        ENVIRONMENT
    params:
        retry=last_failure("results/logs/compare_recipes.log"),
        recipes=list(SETTINGS),
    shell:
        "python3 {input.code[0]} --results results --recipes {params.recipes:q} "
        "--output {output.compared:q} --plot {output.plot:q} 2>&1 | "
        "(trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"


rule over_seeds:
    input:
        code=code.files("over_seeds"),
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
        retry=last_failure("results/logs/{seeded}/over_seeds.log"),
        runs=lambda wildcards: SEEDED[wildcards.seeded],
    shell:
        "python3 {input.code[0]} --results results --runs {params.runs:q} --output {output:q} 2>&1 | "
        "(trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"
