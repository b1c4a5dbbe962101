"""Whole evaluations of a few prompts, for the tests."""

from gsm8k_grpo import rollout

GREEDY = rollout.Decoding(temperature=0.0, top_k=None, top_p=1.0, seed=0)


def completed(sampler, prompts, batch_size, max_prompt_tokens, limit, stop_id, mesh, decoding=GREEDY, samples=1):
    """{(index of the prompt, number of the sample): its completion}."""
    found = {}
    for batch in rollout.batches(prompts, samples, batch_size):
        arguments = (sampler, prompts, batch, batch_size, decoding, max_prompt_tokens, limit, stop_id, mesh)
        found.update(zip(batch, rollout.complete(*arguments), strict=True))
    return found
