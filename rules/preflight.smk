# Would a recipe fit on an accelerator, asked before one is rented. No rule waits for it.


rule preflight:
    output:
        update("results/{recipe}/preflight.json"),
    log:
        "results/logs/{recipe}/preflight.log",
    # The TPU's compiler, whatever the other rules run on.
    conda:
        "../envs/tpu.yaml"
    params:
        **rerun_on("preflight"),
        **stage_settings("seed", "mesh", "model", "prompt", "training", "evaluation", "preflight"),
        # It tells how many tokens all prompts begin with; the preflight waits for none.
        tokenizer=lambda wildcards: [
            part for path in found_tokenizer(wildcards) for part in ("--tokenizer", path)
        ],
        tokenizer_hash=lambda wildcards: files.canonical_json(
            {path: files.sha256_file(path) for path in found_tokenizer(wildcards)}
        ),
    message:
        "Compile {wildcards.recipe} for its accelerator (preflight)"
    shell:
        stage(
            "preflight",
            "--settings {params.settings_file:q} {params.tokenizer:q} --output {output:q}",
            facts="{params.tokenizer_hash:q}",
        )
