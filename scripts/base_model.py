r"""Stage `base_model`: the weights and the tokenizer that training starts from.

  python scripts/base_model.py --settings results/tiny/settings.yaml --output results/models/tiny \
      --rows results/data/word-problems/train.jsonl

Writes weights/ (Orbax), tokenizer.model, provenance.json and, last, model.json (source, architecture, parameters,
hashes). Equal weights have equal files model.json, so that making them again reruns nothing. Of a fetched model,
published/ keeps the files beside its weights.
"""

from pathlib import Path

from gsm8k_grpo.common import files, jax_setup
from gsm8k_grpo.common.command_line import OutputFolder, Settings, run_stage
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.data import demonstrations, hubs
from gsm8k_grpo.models.families import family_of


def main(*, settings: Settings, rows: Path | None = None, same: Path | None = None, output: OutputFolder) -> None:
    """Runs the stage.

    Args:
      rows: normalised train rows (source pretrained)
      same: folder of a miniature that has the same pretraining
    """
    model_settings = to_plain(stage_settings(settings, "model")["model"])
    architecture = model_settings["architecture"]
    jax_setup.configure_jax()

    from gsm8k_grpo.huggingface import published_model
    from gsm8k_grpo.models import model_folder_writing, pretraining

    def take_over(making: Path) -> tuple[dict, dict]:
        return model_folder_writing.take_over_model(same, making)

    def pretrain(making: Path) -> tuple[dict, dict]:
        if not rows:
            raise PipelineError("--rows: source pretrained needs the rows to pretrain on")
        shown = files.read_jsonl(rows, keys=("question", "solution", "answer"))
        template = family_of(architecture).template
        texts = demonstrations.pretraining_texts(shown, model_settings["pretraining"], template)
        return pretraining.pretrain_from_texts(
            *texts, architecture, model_settings["pretraining"], making / "tokenizer.model"
        )

    def convert(making: Path) -> tuple[dict, dict]:
        folder, origin = hubs.fetch_model(model_settings)
        return published_model.convert_model(folder, architecture, making), origin

    pretrained = take_over if same else pretrain
    make = pretrained if model_settings["source"] == "pretrained" else convert
    model_folder_writing.write_model_folder(output, model_settings, make)


if __name__ == "__main__":
    run_stage(main)
