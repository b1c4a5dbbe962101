# The base model: downloaded, or pretrained on the data set's train rows.


rule base_model:
    input:
        code=code.files("base_model"),
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
        accelerator=1,
        mem_mb=of_cluster("mem_mb"),
        gres=of_cluster("gres"),
        tpu_slice=of_cluster("tpu_slice"),
    params:
        retry=last_failure("results/logs/models/{model}/base_model.log"),
        settings=lambda wildcards: blocks(MODELS[wildcards.model], "model"),
        local_hashes=local_model_hashes,
        rows=lambda wildcards, input: f"--rows {input.rows}" if input.rows else "",
        same=lambda wildcards, input: f"--same $(dirname {input.same})" if input.same else "",
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} {params.rows} {params.same} "
        "--output $(dirname {output.manifest:q}) 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"
