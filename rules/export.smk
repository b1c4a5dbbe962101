# For others: a Hugging Face folder and PEFT's adapters. A target of its own: `snakemake --cores 1
# results/RECIPE/export/README.md`. The weights themselves are undeclared, as those of the base model are.


rule export:
    input:
        code=code.files("export"),
        templates=expand(
            "scripts/gsm8k_grpo/templates/{template}",
            template=("model_card.md.j2", "chat_gemma.jinja", "chat_qwen.jinja"),
        ),
        settings="results/{recipe}/settings.yaml",
        dataset=data_file("dataset.json"),
        model=model_file("model.json"),
        tokenizer=model_file("tokenizer.model"),
        checkpoints="results/{recipe}/training/checkpoints.json",
        training="results/{recipe}/training/summary.json",
        prompts=lambda wildcards: (
            f"results/{wildcards.recipe}/prompts/"
            f"{SETTINGS[wildcards.recipe]['evaluation']['split']}.jsonl"
        ),
        base="results/{recipe}/evaluations/base/metrics.json",
        final="results/{recipe}/evaluations/final/metrics.json",
        completions="results/{recipe}/evaluations/final/completions.jsonl",
        best="results/{recipe}/best.json",
        comparison="results/{recipe}/comparison.json",
    output:
        card=update("results/{recipe}/export/README.md"),
        manifest=update("results/{recipe}/export/export.json"),
    log:
        "results/logs/{recipe}/export.log",
    conda:
        ENVIRONMENT
    resources:
        accelerator=1,
        mem_mb=of_cluster("mem_mb"),
        gres=of_cluster("gres"),
        tpu_slice=of_cluster("tpu_slice"),
    params:
        retry=last_failure("results/logs/{recipe}/export.log"),
    shell:
        "python3 {input.code[0]} --results results --recipe {wildcards.recipe} "
        "--output $(dirname {output.card:q}) 2>&1 | (trap '' INT TERM; exec tee {log:q}) || "
        "{{ date +%s%N > {log:q}.failed; exit 1; }}"
