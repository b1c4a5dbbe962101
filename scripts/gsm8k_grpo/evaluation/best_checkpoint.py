"""Choosing the best checkpoint on dev."""

from gsm8k_grpo.common.errors import PipelineError


def choose_best(evaluations: list[dict]) -> dict:
    """The checkpoint with the highest answer accuracy on dev; of equals, the one trained least.

    The choice flatters its accuracy on these rows. Test rows take no part in the choice and show what it is worth.

    Args:
      evaluations: metrics.json of each checkpoint on one split, base first; the base model is no candidate.

    Returns:
      `checkpoint`, `step`, `split`, `extraction` and `answer_accuracy` of the best, and `candidates`: `checkpoint`,
      `step` and `answer_accuracy` of all.

    Raises:
      PipelineError: the evaluations differ in split or number of rows, or only the base model is given.
    """
    if len({(each["split"], each["answer_accuracy"]["n"]) for each in evaluations}) > 1:
        raise PipelineError(
            "--metrics: the checkpoints were not evaluated on the same rows; evaluate them again (--forcerun evaluate)"
        )
    keys = ("checkpoint", "step", "answer_accuracy")
    candidates = [{key: each[key] for key in keys} for each in evaluations if each["checkpoint"] != "base"]
    if not candidates:
        raise PipelineError(
            "--metrics: no checkpoint to choose from, only the base model; give the metrics.json of all checkpoints"
        )
    chosen = max(candidates, key=lambda each: (each["answer_accuracy"]["value"], -each["step"]))
    return {
        **chosen,
        "split": evaluations[0]["split"],
        "extraction": evaluations[0]["extraction"],
        "candidates": candidates,
    }
