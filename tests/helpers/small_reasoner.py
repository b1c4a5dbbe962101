"""A small model that adds two numbers and reasons in three of four completions."""

from gsm8k_grpo.data.prompts import build_prompt, format_completion
from gsm8k_grpo.models import building, pretraining, tokenizers
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from gsm8k_grpo.rewards.answers import Tags
from small_models import ARCHITECTURE

TAGS = Tags("<reasoning>", "</reasoning>", "<answer>", "</answer>")
SUMS = [(first, second) for first in range(2, 6) for second in range(2, 6)]
ROWS = [
    {
        "id": f"{first} {second}",
        "prompt": build_prompt("", f"{first} and {second}?"),
        "answer": str(first + second),
        "prompt_tokens": 16,
    }
    for first, second in SUMS
]
STOP_IDS = (107, 1)


def base_model(folder, cheap, more="", limit_tokens=64):
    """(A model that reasons in three of four completions and writes `cheap` instead in the fourth, its tokenizer)."""
    prompts = [build_prompt("", f"{first} and {second}?") for first, second in SUMS for _ in range(4)]
    completions = [
        format_completion(f"{first} + {second} = {first + second}{more}" if copy else cheap, str(first + second), TAGS)
        for first, second in SUMS
        for copy in range(4)
    ]
    file = folder / "tokenizer.model"
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    file.write_bytes(train_tokenizer(texts, ARCHITECTURE["vocabulary_size"]))
    tokenizer = tokenizers.load_tokenizer(file)
    batch = pretraining.pack_rows(
        [tokenizers.with_bos(tokenizer, ids) for ids in tokenizer.encode(prompts)],
        [[*ids, 107] for ids in tokenizer.encode(completions)],
        tokenizer.pad_id(),
        limit_tokens,
    )
    model = building.initialise(building.tunix_config(ARCHITECTURE), seed=0)
    settings = {"steps": 300, "batch_size": 16, "learning_rate": 0.01}
    pretraining.pretrain_model(model, batch, settings, seed=0, pad_id=tokenizer.pad_id())
    return model, tokenizer
