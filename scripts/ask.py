r"""Asks the base model and the trained one the same question, and shows their answers side by side.

  python scripts/ask.py --recipe tiny "Sofia has 7 balls, sells 5, reaches 3 times as many. How many balls now?"
  python scripts/ask.py --recipe tiny
  python scripts/ask.py --recipe tiny --gguf results/tiny/export-gguf/model.gguf

Without a question, it waits for some, one a line; an empty line ends it. Both models are asked as evaluation asks them:
the recipe's prompt, decoding and length. The first answer of each takes longest, as programs are compiled or read.
With a GGUF file, llama.cpp answers beside them, greedily: the same tokens of the prompt, stop tokens and length.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from gsm8k_grpo.common import jax_setup, layout, llama_environment
from gsm8k_grpo.common.command_line import ResultsFolder, run_stage
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.evaluation import inputs
from gsm8k_grpo.report.side_by_side import side_by_side
from gsm8k_grpo.rewards.answers import Tags


def main(
    *question: str,
    recipe: str = "tiny",
    checkpoint: str = "final",
    gguf: Path | None = None,
    results: ResultsFolder = Path("results"),
) -> None:
    """Asks.

    Args:
      question: in quotation marks; without it, questions are read line by line
      recipe: name of a trained recipe, or of its run: a folder below the results
      checkpoint: the trained model: step-N, final, or best (the one chosen on dev)
      gguf: a GGUF file of the trained model; llama.cpp then answers too
    """
    if not question and sys.stdin is None:
        raise PipelineError("question: standard input is closed; write one in quotation marks")
    given = [_readable(" ".join(question))] if question else None
    run = layout.run_folder(results, recipe)
    checkpoints = layout.training_folder(results, recipe) / "checkpoints.json"
    for path in (layout.settings_file(results, recipe), checkpoints):
        if not path.is_file():
            trained = sorted(each.parent.parent.name for each in results.glob("*/training/checkpoints.json"))
            known = f"trained here: {', '.join(trained)}" if trained else "nothing is trained here yet"
            raise PipelineError(
                f"{path}: no such file: run snakemake --cores 1 results/report.html --config recipes={recipe} first, "
                f"or name another recipe ({known})"
            )
    settings = stage_settings(str(layout.settings_file(results, recipe)), "mesh", "model", "prompt", "evaluation")
    chosen = inputs.find_checkpoint(checkpoint, checkpoints, run / "best.json")
    if gguf:
        llama_environment.require_file(gguf)
    jax_setup.configure_jax()
    from gsm8k_grpo.evaluation.asking import GGUF, Asker

    folder = layout.model_folder(results, settings["model"]["name"])
    names = {"base": "base model", chosen["name"]: f"{recipe}, {chosen['name']} (step {chosen['step']})"}
    asker = Asker(settings, folder, checkpoints, list(names), gguf)
    if gguf:
        names[GGUF] = f"{gguf.name} (llama.cpp)"
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for asked in given or _questions():
        try:
            answers = {shown: asker.ask(_readable(asked), name) for name, shown in names.items()}
        except PipelineError as error:
            if given:
                raise
            print(f"ERROR: {error}", file=sys.stderr)  # the next question may be a better one
            continue
        texts = {name: f"{answer.text}\n\n{_facts(answer)}" for name, answer in answers.items()}
        width = shutil.get_terminal_size().columns
        print(side_by_side(texts, width, Tags.of(settings["prompt"]) if coloured else None), flush=True)


def _readable(question: str) -> str:
    """A question that a tokenizer can read.

    Raises:
      PipelineError: it is blank, or has bytes that are not UTF-8, such as half of a character.
    """
    if not question.strip():
        raise PipelineError("question: it is blank; write one in quotation marks, or leave it out to type some")
    try:
        question.encode()
    except UnicodeEncodeError:
        raise PipelineError(f"question: {ascii(question)[:80]} is not UTF-8; write it anew") from None
    return question


def _questions() -> Iterator[str]:
    """Questions from standard input, up to an empty line or its end."""
    prompt = "\nquestion> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not line:
            return
        yield line


def _facts(answer: object) -> str:
    """What is known of an answer, in two short lines."""
    read = f"answer {answer.reading}" if answer.reading else "no answer found"
    form = "right format" if answer.has_format else "not the format"
    cut = ", cut at the limit" if answer.truncated else ""
    return f"{read}; {form}\n{answer.tokens} tokens{cut}; {answer.seconds:.1f} s"


if __name__ == "__main__":
    run_stage(main)
