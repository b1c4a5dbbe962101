"""Which files of the user's own are not there: rows, other sets, a model's folder. Said before a run starts.

The rules import this module, so it does not import JAX.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from gsm8k_grpo.common import layout
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import hubs, sources, transfer_rows


def missing_files(results: Path, runs: Mapping[str, Mapping]) -> list[str]:
    """The sentences with which stages of these runs would end, as far as what they make is not there either.

    Args:
      results: the folder of all artifacts, which need not be there yet.
      runs: the settings of each run, by name.
    """
    checks: dict[Path, Callable[[], None]] = {}  # by what the stage makes; several runs may share it
    for chosen in runs.values():
        dataset, model = chosen["dataset"], chosen["model"]
        if dataset["source"] == "jsonl":
            made = layout.dataset_folder(results, dataset["name"]) / "dataset.json"
            checks[made] = partial(sources.require_local_files, Path(dataset["path"]))
        if model["source"] == "local":
            made = layout.model_folder(results, model["name"]) / "model.json"
            checks[made] = partial(hubs.require_local_folder, Path(model["path"]))
        for each in chosen["evaluation"]["transfer"]:
            if each["path"] and not each["handle"]:
                made = layout.dataset_folder(results, each["name"]) / "dataset.json"
                checks[made] = partial(transfer_rows.require_local_file, each["name"], Path(each["path"]))
    found = []
    for made, check in checks.items():
        try:
            if not made.is_file():
                check()
        except PipelineError as error:
            found.append(str(error))
    return found
