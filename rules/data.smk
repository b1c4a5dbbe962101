# From questions to prompts.


rule download:
    input:
        code=code.files("download"),
    output:
        train=update("results/data/{dataset}/train.jsonl"),
        test=update("results/data/{dataset}/test.jsonl"),
        manifest=update("results/data/{dataset}/dataset.json"),
    log:
        "results/logs/data/{dataset}/download.log",
    conda:
        ENVIRONMENT
    params:
        retry=last_failure("results/logs/data/{dataset}/download.log"),
        settings=lambda wildcards: blocks(DATASETS[wildcards.dataset], "dataset"),
        source_hashes=source_hashes,
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} "
        "--output $(dirname {output.manifest:q}) 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"


rule prompts:
    input:
        code=code.files("prompts"),
        train=data_file("train.jsonl"),
        test=data_file("test.jsonl"),
        model=model_file("model.json"),
        tokenizer=model_file("tokenizer.model"),
    output:
        train=update("results/{recipe}/prompts/train.jsonl"),
        dev=update("results/{recipe}/prompts/dev.jsonl"),
        test=update("results/{recipe}/prompts/test.jsonl"),
        summary=update("results/{recipe}/prompts/summary.json"),
    log:
        "results/logs/{recipe}/prompts.log",
    conda:
        ENVIRONMENT
    params:
        retry=last_failure("results/logs/{recipe}/prompts.log"),
        settings=recipe_blocks("prompt"),
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} --train {input.train:q} "
        "--test {input.test:q} --model $(dirname {input.model:q}) "
        "--output $(dirname {output.summary:q}) 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"
