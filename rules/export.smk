# For others: a Hugging Face folder and PEFT's adapters, and the same weights as a checkpoint of Tunix and as a GGUF file.
# Targets of their own: `snakemake --cores 1 results/RECIPE/export/README.md`. Only the GGUF file's weights are declared;
# the others' are not, like those of the base model.


rule export:
    input:
        settings="results/{recipe}/settings.yaml",
        dataset=data_file("dataset.json"),
        model=model_file("model.json"),
        tokenizer=model_file("tokenizer.model"),
        checkpoints="results/{recipe}/training/checkpoints.json",
        training="results/{recipe}/training/summary.json",
        prompts=lambda wildcards: evaluated_prompts(wildcards.recipe),
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
        **RUNS_A_MODEL,
    params:
        **rerun_on("export"),
    message:
        "Export {wildcards.recipe} for Hugging Face"
    shell:
        stage(
            "export",
            "--results results --recipe {wildcards.recipe:q} "
            '--output "$(dirname {output.card:q})"',
        )


rule export_tunix:
    input:
        settings="results/{recipe}/settings.yaml",
        dataset=data_file("dataset.json"),
        model=model_file("model.json"),
        export="results/{recipe}/export/export.json",
        training="results/{recipe}/training/summary.json",
        base="results/{recipe}/evaluations/base/metrics.json",
        final="results/{recipe}/evaluations/final/metrics.json",
        best="results/{recipe}/best.json",
        comparison="results/{recipe}/comparison.json",
    output:
        card=update("results/{recipe}/export-tunix/README.md"),
        manifest=update("results/{recipe}/export-tunix/export.json"),
    log:
        "results/logs/{recipe}/export_tunix.log",
    conda:
        ENVIRONMENT
    resources:
        **RUNS_A_MODEL,
    params:
        **rerun_on("export_tunix"),
    message:
        "Export {wildcards.recipe} for Tunix"
    shell:
        stage(
            "export_tunix",
            "--results results --recipe {wildcards.recipe:q} "
            '--output "$(dirname {output.card:q})"',
        )


# The converter has an environment of its own, .venv-gguf (`make setup-gguf`). Without it, the script says so.
rule export_gguf:
    input:
        export="results/{recipe}/export/export.json",
    output:
        model=update("results/{recipe}/export-gguf/model.gguf"),
        manifest=update("results/{recipe}/export-gguf/export.json"),
    log:
        "results/logs/{recipe}/export_gguf.log",
    conda:
        ENVIRONMENT
    resources:
        **RUNS_A_MODEL,
    params:
        **rerun_on("export_gguf"),
    message:
        "Export {wildcards.recipe} for llama.cpp"
    shell:
        stage(
            "export_gguf",
            "--results results --recipe {wildcards.recipe:q} "
            '--output "$(dirname {output.manifest:q})"',
        )
