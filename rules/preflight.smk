# Would a recipe fit on an accelerator, asked before one is rented. No rule waits for it.


rule preflight:
    input:
        code=code.files("preflight"),
    output:
        update("results/{recipe}/preflight.json"),
    log:
        "results/logs/{recipe}/preflight.log",
    # The TPU's compiler, whatever the other rules run on.
    conda:
        "../envs/tpu.yaml"
    params:
        retry=last_failure("results/logs/{recipe}/preflight.log"),
        settings=recipe_blocks(
            "seed", "mesh", "model", "prompt", "training", "evaluation", "preflight"
        ),
    shell:
        "python3 {input.code[0]} --settings {params.settings:q} "
        "--output {output:q} 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"
