# Base model and checkpoints by one rule, then base against final on the same rows.


rule evaluate:
    input:
        code=code.files("evaluate"),
        rows=lambda wildcards: "results/{recipe}/prompts/{split}.jsonl".format(
            recipe=wildcards.recipe,
            split=SETTINGS[wildcards.recipe]["evaluation"]["split"],
        ),
        model=model_file("model.json"),
        tokenizer=model_file("tokenizer.model"),
        checkpoints=branch(
            lambda wildcards: wildcards.checkpoint == "base",
            then=[],
            otherwise="results/{recipe}/training/checkpoints.json",
        ),
    output:
        completions=update("results/{recipe}/evaluations/{checkpoint}/completions.jsonl"),
        metrics=update("results/{recipe}/evaluations/{checkpoint}/metrics.json"),
    log:
        "results/logs/{recipe}/evaluate-{checkpoint}.log",
    conda:
        ENVIRONMENT
    resources:
        accelerator=1,
    params:
        retry=last_failure("results/logs/{recipe}/evaluate-{checkpoint}.log"),
        settings=recipe_blocks("mesh", "prompt", "evaluation"),
        checkpoints=lambda wildcards, input: (
            f"--checkpoints {input.checkpoints}" if input.checkpoints else ""
        ),
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} --rows {input.rows:q} "
        "--model $(dirname {input.model:q}) --checkpoint {wildcards.checkpoint} "
        "{params.checkpoints} --output $(dirname {output.metrics:q}) 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"


rule compare:
    input:
        code=code.files("compare"),
        base="results/{recipe}/evaluations/base/completions.jsonl",
        final="results/{recipe}/evaluations/final/completions.jsonl",
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
        "--final {input.final:q} --output {output:q} 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"
