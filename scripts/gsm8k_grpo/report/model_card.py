"""The model card (README.md of the export) and the licence notice, from artifacts."""

import json
from collections.abc import Mapping
from pathlib import Path

import jinja2
import yaml

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.grpo.training_method import METHOD_TITLES
from gsm8k_grpo.huggingface.export import base_name
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.family import Licence
from gsm8k_grpo.report import numbers, sentences
from gsm8k_grpo.report.caveats import machine
from gsm8k_grpo.report.metric_catalogue import RATES

TEMPLATES = Path(__file__).parent / "model_card_template"


def licence(model: Mapping) -> Licence | None:
    """The base's licence; None where nothing here tells which one it is, or there is none.

    Args:
      model: model.json.
    """
    if model["origin"]["source"] == "pretrained":
        return None
    return family_of(model["architecture"]).licence(model["architecture"], model["origin"].get("handle", ""))


def published_rows(dataset: Mapping) -> bool:
    """Whether a data set (dataset.json) comes from GSM8K's published files, by their hashes."""
    return dataset["origin"].get("sha256") == gsm8k.published_hashes()


def facts(results: Path, recipe: str) -> dict:
    """Everything the card says about a run, read from its artifacts."""
    folder, settings = layout.run_folder(results, recipe), read_yaml(layout.settings_file(results, recipe))
    model = files.read_json(layout.model_folder(results, settings["model"]["name"]) / "model.json")
    family = family_of(model["architecture"])
    return {
        "recipe": recipe,
        "settings": settings,
        "settings_text": yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        "dataset": files.read_json(layout.dataset_folder(results, settings["dataset"]["name"]) / "dataset.json"),
        "model": model,
        "family": family,
        "base_model": base_name(model["origin"]),
        "licence": licence(model),
        "training": files.read_json(layout.training_folder(results, recipe) / "summary.json"),
        "best": files.read_json(folder / "best.json"),
        **{
            name: files.read_json(layout.evaluation_folder(results, recipe, name) / "metrics.json")
            for name in ("base", "final")
        },
        "compared": files.read_json(folder / "comparison.json"),
    }


def notice(facts: Mapping) -> str:
    """The notice that goes with every copy: the base's licence, and that the weights were modified."""
    method = METHOD_TITLES[facts["settings"]["training"]["method"]]
    changed = f"The weights in this folder were modified by training with {method} (README.md).\n"
    if not facts["licence"]:
        if facts["model"]["origin"]["source"] == "pretrained":
            return f"{changed}The base was trained from nothing by the same pipeline; no published weights are in it.\n"
        return f"The licence of the base model holds for these weights too; see where it was published.\n{changed}"
    return f"{facts['licence'].notice}\n{changed}"


def front_matter(facts: Mapping) -> str:
    """The card's metadata for the hub, as YAML."""
    data, final, dataset = {}, facts["final"], facts["dataset"]
    local = facts["model"]["origin"]["source"] in ("local", "pretrained")
    if facts["licence"]:
        data["license"] = facts["licence"].key
    if facts["base_model"] and not local:
        data |= {"base_model": facts["base_model"], "base_model_relation": "finetune"}
    published = published_rows(dataset)
    if published:
        data["datasets"] = ["openai/gsm8k"]
    rates = [key for key in RATES if key.endswith("_accuracy") and key in final]
    metrics = [
        {
            "type": "accuracy",
            "name": " – ".join(filter(None, (RATES[key].label, RATES[key].counts))),
            "value": round(100 * final[key]["value"], 2),
        }
        for key in rates
    ]
    data |= {
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": [
            METHOD_TITLES[facts["settings"]["training"]["method"]].lower().replace(" ", "-"),
            *(["lora"] if facts["settings"]["training"]["lora"] else []),
            "tunix",
        ],
        "model-index": [
            {
                "name": facts["recipe"],
                "results": [
                    {
                        "task": {"type": "text-generation"},
                        "dataset": {
                            "name": dataset["name"],
                            "type": "openai/gsm8k" if published else dataset["name"],
                            "split": final["split"],
                        },
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def render(facts: Mapping, manifest: Mapping) -> str:
    """The card, as Markdown.

    Args:
      facts: of `facts`.
      manifest: the contents of export.json without the hashes.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        quoted=lambda text: json.dumps(text, ensure_ascii=False),
        percent=numbers.percent,
        tenth=numbers.tenth,
        points=numbers.points,
        p_value=numbers.p_value,
        verdict=sentences.verdict,
        machine=machine,
    )
    return environment.get_template("model_card.md.j2").render(
        facts,
        front_matter=front_matter(facts),
        export=manifest,
        rates=RATES,
        method=METHOD_TITLES[facts["settings"]["training"]["method"]],
    )
