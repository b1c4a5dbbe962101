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
    message:
        "Compile {wildcards.recipe} for its accelerator (preflight)"
    shell:
        stage("preflight", "--settings {params.settings_file:q} --output {output:q}")
