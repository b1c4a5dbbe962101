"""The model card (README.md of the export) and the licence notice, from artifacts."""

import json
from collections.abc import Mapping
from pathlib import Path

import jinja2
import yaml

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.evaluation.comparison import verdict
from gsm8k_grpo.grpo.training_method import METHOD_TITLES
from gsm8k_grpo.huggingface.export import base_name
from gsm8k_grpo.models import families
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.family import Licence
from gsm8k_grpo.report import numbers
from gsm8k_grpo.report.caveats import machine
from gsm8k_grpo.report.metric_catalogue import RATES

TEMPLATES = Path(__file__).parent / "model_card_template"
QUESTION = "Ana has 3 pens and buys 4 more. How many pens does she have?"
IMPORTS = {"import dataclasses": "dataclasses.", "import jax.numpy as jnp": "jnp."}  # where a configuration needs them


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


def front_matter(facts: Mapping, library: str = "transformers") -> str:
    """The card's metadata for the hub, as YAML; `library` is what loads the weights."""
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
        "library_name": library,
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


def _tunix_facts(facts: Mapping, tunix: Mapping) -> dict:
    """What the code that loads and asks the model with Tunix says; `tunix` is of the manifest."""
    prompt, evaluation = facts["settings"]["prompt"], facts["settings"]["evaluation"]
    template, config = facts["family"].template, tunix["config"]
    padded = 1 << (prompt["max_tokens"] - 1).bit_length()  # Tunix's sampler pads prompts to a power of two
    return {
        **tunix,
        "imports": [line for line, used in IMPORTS.items() if used in config],
        "prompt": build_prompt(prompt["system"], QUESTION, template, prompt["layout"]),
        "cache_tokens": padded + evaluation["max_completion_tokens"],
        "stops": list(template.stops),
        "unused": tunix["embeddings"] - families.architecture_sizes(facts["model"]["architecture"])["vocabulary_size"],
    }


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
        verdict=verdict,
        machine=machine,
    )
    return environment.get_template("model_card.md.j2").render(
        facts,
        front_matter=front_matter(facts, "tunix" if "tunix" in manifest else "transformers"),
        export=manifest,
        question=QUESTION,
        tunix=_tunix_facts(facts, manifest["tunix"]) if "tunix" in manifest else None,
        rates=RATES,
        method=METHOD_TITLES[facts["settings"]["training"]["method"]],
    )
