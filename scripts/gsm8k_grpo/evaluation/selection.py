"""Choosing the best checkpoint on dev."""

from gsm8k_grpo.common.errors import PipelineError


def choose_best(evaluated: list[dict]) -> dict:
    """The checkpoint that dev rows prefer: the highest answer accuracy; of equals, the one trained least.

    Its accuracy on those rows is flattered by the choice; test, which had no part in it, says what it is worth.

    Args:
      evaluated: contents of metrics.json on one split, base first; the base model is no candidate.

    Returns:
      `checkpoint`, `step`, `split`, `extraction`, `answer_accuracy` of the chosen one, and `candidates`, the same of
      all.

    Raises:
      PipelineError: not all on the same split and number of rows, or none but the base model.
    """
    if len({(each["split"], each["answer_accuracy"]["n"]) for each in evaluated}) > 1:
        raise PipelineError(
            "the checkpoints were not evaluated on the same rows; evaluate them again (--forcerun evaluate)"
        )
    keys = ("checkpoint", "step", "answer_accuracy")
    candidates = [{key: each[key] for key in keys} for each in evaluated if each["checkpoint"] != "base"]
    if not candidates:
        raise PipelineError("no checkpoint to choose among, only the base model; give the metrics.json of all")
    chosen = max(candidates, key=lambda each: (each["answer_accuracy"]["value"], -each["step"]))
    return {
        **chosen,
        "split": evaluated[0]["split"],
        "extraction": evaluated[0]["extraction"],
        "candidates": candidates,
    }
