# The base model: downloaded, or pretrained on the data set's train rows.


rule base_model:
    input:
        rows=pretraining_file("train.jsonl"),
        same=same_model,
    output:
        manifest=update("results/models/{model}/model.json"),
        tokenizer=update("results/models/{model}/tokenizer.model"),
        provenance=update("results/models/{model}/provenance.json"),
    log:
        "results/logs/models/{model}/base_model.log",
    conda:
        ENVIRONMENT
    resources:
        **RUNS_A_MODEL,
    params:
        **rerun_on("base_model"),
        **stage_settings("model", owners=MODELS, owner="{model}"),
        local_hashes=as_json(local_model_hashes),
        rows=lambda wildcards, input: options(input, "rows"),
        same=lambda wildcards, input: [
            part for path in input.same for part in ("--same", str(Path(path).parent))
        ],
    message:
        "Make the base model {wildcards.model}"
    shell:
        stage(
            "base_model",
            "--settings {params.settings_file:q} {params.rows:q} {params.same:q} "
            '--output "$(dirname {output.manifest:q})"',
            facts="{params.local_hashes:q}",
        )
