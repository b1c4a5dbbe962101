# From questions to prompts.


rule download:
    input:
        code=code.files("download"),
    output:
        train=update("results/data/{dataset}/train.jsonl"),
        test=update("results/data/{dataset}/test.jsonl"),
        manifest="results/data/{dataset}/dataset.json",
    log:
        "results/logs/data/{dataset}/download.log",
    conda:
        ENVIRONMENT
    params:
        settings=lambda wildcards: blocks(DATASETS[wildcards.dataset], "dataset"),
        source_hashes=source_hashes,
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} "
        "--output $(dirname {output.manifest:q}) 2>&1 | tee {log:q}"


rule prompts:
    input:
        code=code.files("prompts"),
        train=data_file("train.jsonl"),
        test=data_file("test.jsonl"),
        dataset=data_file("dataset.json"),
        model=model_file("model.json"),
        tokenizer=model_file("tokenizer.model"),
    output:
        train=update("results/{recipe}/prompts/train.jsonl"),
        dev=update("results/{recipe}/prompts/dev.jsonl"),
        test=update("results/{recipe}/prompts/test.jsonl"),
        summary="results/{recipe}/prompts/summary.json",
    log:
        "results/logs/{recipe}/prompts.log",
    conda:
        ENVIRONMENT
    params:
        settings=recipe_blocks("prompt"),
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} --train {input.train:q} "
        "--test {input.test:q} --tokenizer {input.tokenizer:q} "
        "--output $(dirname {output.summary:q}) 2>&1 | tee {log:q}"
