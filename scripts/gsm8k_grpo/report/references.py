"""BibTeX of what some runs build on."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.grpo.training_method import samples_from_base, settings_of_step
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.report.model_card import published_rows

ENTRIES = Path(__file__).with_name("references.bib")
_KEY = re.compile(r"@\w+\{(\w+),")
CITATION = ROOT / "CITATION.cff"


def bibtex(runs: Iterable[Mapping]) -> str:
    """The entries that the runs' settings ask for, in the order of references.bib, and this project's own.

    Args:
      runs: of `run_summary.summarise_rates`, each with its settings.
    """
    wanted = {key for run in runs for key in _wanted(run)}
    entries = ENTRIES.read_text(encoding="utf-8").strip().split("\n\n")
    known = [entry for entry in entries if _KEY.match(entry)[1] in wanted]
    own = [_own_entry()] if CITATION.is_file() else []  # a copy of the workflow may lack it
    return "\n\n".join([*own, *known]) + "\n"


def _wanted(run: Mapping) -> Iterable[str]:
    settings, dataset = run["settings"], run["dataset"]
    training = settings["training"]
    lora = training["lora"]
    yield from ("tunix", family_of(settings["model"]["architecture"]).name)
    if training["method"] == "grpo":
        yield from ("grpo", training["advantage_estimator"])
    if samples_from_base(settings_of_step(training, 0)):
        yield "rft"
    if dataset and published_rows(dataset):
        yield "gsm8k"
    if lora:
        yield "qlora" if lora["base_weights"] else "lora"


def _own_entry() -> str:
    """This project, from CITATION.cff."""
    citation = read_yaml(CITATION)
    authors = " and ".join(f"{{{author['name']}}}" for author in citation["authors"])
    fields = {"title": citation["title"], "author": authors, "version": citation["version"]}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@software{{this_project,\n{lines}\n}}"
