# From questions to prompts.


# TensorFlow Datasets needs TensorFlow: an environment of its own, here .venv-tfds (`make setup-tfds`) or envs/tfds.yaml.
# Where there is neither, the script says so.
rule tfds_rows:
    output:
        train=update("results/data/{dataset}/tfds/train.jsonl"),
        test=update("results/data/{dataset}/tfds/test.jsonl"),
        origin=update("results/data/{dataset}/tfds/origin.json"),
    log:
        "results/logs/data/{dataset}/tfds_rows.log",
    conda:
        "../envs/tfds.yaml"
    params:
        **rerun_on("tfds_rows"),
    message:
        "Get {wildcards.dataset} from TensorFlow Datasets"
    shell:
        stage("tfds_rows", '--output "$(dirname {output.origin:q})"', path="$PWD/.venv-tfds/bin")


rule download:
    input:
        tfds_rows=tfds_files,
    output:
        train=update("results/data/{dataset}/train.jsonl"),
        test=update("results/data/{dataset}/test.jsonl"),
        manifest=update("results/data/{dataset}/dataset.json"),
    log:
        "results/logs/data/{dataset}/download.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("download"),
        **stage_settings("dataset", owners=DATASETS, owner="{dataset}"),
        source_hashes=as_json(source_hashes),
        tfds_rows=lambda wildcards, input: (
            ["--tfds-rows", f"results/data/{wildcards.dataset}/tfds"] if input.tfds_rows else []
        ),
    message:
        "Get the data set {wildcards.dataset}"
    shell:
        stage(
            "download",
            "--settings {params.settings_file:q} {params.tfds_rows:q} "
            '--output "$(dirname {output.manifest:q})"',
            facts="{params.source_hashes:q}",
        )


rule prompts:
    input:
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
        **rerun_on("prompts"),
        **stage_settings("prompt"),
    message:
        "Write the prompts of {wildcards.recipe}"
    shell:
        stage(
            "prompts",
            "--settings {params.settings_file:q} --train {input.train:q} --test {input.test:q} "
            '--model "$(dirname {input.model:q})" --output "$(dirname {output.summary:q})"',
        )
