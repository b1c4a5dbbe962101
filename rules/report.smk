# What people look at. What is marked with `report` goes into `snakemake --report` too.
TABLES = ["rates", "comparisons", *(["seeds"] if SEEDED else [])]


rule settings:
    output:
        update("results/{recipe}/settings.yaml"),
    log:
        "results/logs/{recipe}/settings.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("settings"),
        **stage_settings(
            *Settings.model_fields,
            owners={recipe: chosen | WITHOUT_RESULT for recipe, chosen in SETTINGS.items()},
            with_transfer=True,
        ),
    message:
        "Write the settings of {wildcards.recipe}"
    shell:
        stage("settings", "--settings {params.settings_file:q} --output {output:q}")


rule plots:
    input:
        metrics="results/{recipe}/training/metrics.csv",
        selection=lambda wildcards: selection(wildcards.recipe),
        best="results/{recipe}/best.json",
        evaluations=expand(
            "results/{{recipe}}/evaluations/{checkpoint}/metrics.json",
            checkpoint=("base", "final", "best"),
        ),
    output:
        accuracy=report(
            update("results/{recipe}/plots/accuracy.svg"),
            category="Plots",
            labels={"run": "{recipe}", "plot": "accuracy over checkpoints"},
        ),
        training=report(
            update("results/{recipe}/plots/training.svg"),
            category="Plots",
            labels={"run": "{recipe}", "plot": "figures of training"},
        ),
    log:
        "results/logs/{recipe}/plots.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("plots"),
    message:
        "Draw the plots of {wildcards.recipe}"
    shell:
        stage(
            "plots",
            "--metrics {input.metrics:q} --selection {input.selection:q} "
            "--best {input.best:q} --evaluations {input.evaluations:q} "
            '--output "$(dirname {output.accuracy:q})"',
        )


rule tables:
    input:
        settings=expand("results/{recipe}/settings.yaml", recipe=SETTINGS),
        datasets=expand("results/data/{dataset}/dataset.json", dataset=DATASETS),
        metrics=expand(
            "results/{recipe}/evaluations/{checkpoint}/metrics.json",
            recipe=SETTINGS,
            checkpoint=("base", "final", "best"),
        ),
        comparisons=expand("results/{recipe}/comparison.json", recipe=SETTINGS),
        across=["results/comparison-of-recipes.json"] if len(SETTINGS) > 1 else [],
        seeds=expand("results/{seeded}/seeds.json", seeded=SEEDED),
    output:
        tables=[
            report(
                update(f"results/tables/{name}.csv"),
                category="Tables",
                labels={"table": name},
            )
            for name in TABLES
        ],
        latex=[update(f"results/tables/{name}.tex") for name in TABLES],
        references=update("results/tables/references.bib"),
    log:
        "results/logs/tables.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("tables"),
        recipes=list(SETTINGS),
        seeded=["--seeded", *SEEDED] if SEEDED else [],
    message:
        "Write the tables for a paper"
    shell:
        stage(
            "tables",
            "--recipes {params.recipes:q} {params.seeded:q} --results results "
            '--output "$(dirname {output.references:q})"',
        )


rule report:
    input:
        settings=expand("results/{recipe}/settings.yaml", recipe=SETTINGS),
        datasets=expand("results/data/{dataset}/dataset.json", dataset=DATASETS),
        models=expand(
            "results/models/{model}/{file}", model=MODELS, file=("model.json", "provenance.json")
        ),
        prompts=expand("results/{recipe}/prompts/summary.json", recipe=SETTINGS),
        # What the completions answer.
        questions=[path for recipe in SETTINGS for path in questions_of(recipe)],
        format_checks=expand("results/{recipe}/format_check.json", recipe=SETTINGS),
        reward_audits=expand("results/{recipe}/reward_audit.json", recipe=SETTINGS),
        training=expand(
            "results/{recipe}/training/{file}",
            recipe=SETTINGS,
            file=("summary.json", "checkpoints.json"),
        ),
        metrics=expand("results/{recipe}/training/metrics.csv", recipe=SETTINGS),
        evaluations=[path for recipe in SETTINGS for path in selection(recipe)],
        completions=expand(
            "results/{recipe}/evaluations/{checkpoint}/{file}",
            recipe=SETTINGS,
            checkpoint=("base", "final", "best"),
            file=("completions.jsonl", "metrics.json"),
        ),
        best=expand("results/{recipe}/best.json", recipe=SETTINGS),
        comparisons=expand("results/{recipe}/comparison.json", recipe=SETTINGS),
        transfer=[
            f"results/{recipe}/transfer.json"
            for recipe in SETTINGS
            if SETTINGS[recipe]["evaluation"]["transfer"]
        ],
        rewards=expand("results/{recipe}/rewards.jsonl", recipe=SETTINGS),
        across=["results/comparison-of-recipes.json"] if len(SETTINGS) > 1 else [],
        seeds=expand("results/{seeded}/seeds.json", seeded=SEEDED),
        plots=expand(
            "results/{recipe}/plots/{plot}.svg",
            recipe=SETTINGS,
            plot=("accuracy", "training"),
        ),
        tables=expand("results/tables/{table}.csv", table=TABLES),
    output:
        report(update("results/report.html"), category="Page", labels={"page": "report.html"}),
    log:
        "results/logs/report.log",
    conda:
        ENVIRONMENT
    params:
        **rerun_on("report"),
        recipes=list(SETTINGS),
        seeded=["--seeded", *SEEDED] if SEEDED else [],
        # Read where they are there, never made for the page; another content makes another page.
        preflights=lambda wildcards: files.canonical_json(
            {
                recipe: files.sha256_file(path)
                for recipe in SETTINGS
                if (path := Path("results", recipe, "preflight.json")).is_file()
            }
        ),
        defaults=files.canonical_json(
            read_yaml(Path(workflow.basedir, "config.yaml")) | WITHOUT_RESULT
        ),
    message:
        "Write the report"
    shell:
        stage(
            "report",
            "--recipes {params.recipes:q} {params.seeded:q} --results results "
            "--output {output:q}",
            facts="{params.preflights:q} {params.defaults:q}",
        )
