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
    pairs = [
        (row["prompt"], _completion(first, second, more) if copy else format_completion(cheap, row["answer"], TAGS))
        for row, (first, second) in zip(ROWS, SUMS, strict=True)
        for copy in range(4)
    ]
    return _pretrained(folder, pairs, limit_tokens)


def hinted_model(folder):
    """(A model that reasons after `hinted_prompt` alone and else writes a bare answer, its tokenizer)."""
    plain = [(row["prompt"], row["answer"]) for row in ROWS]
    hinted = [(hinted_prompt(*numbers), _completion(*numbers)) for numbers in SUMS]
    return _pretrained(folder, plain + hinted, 80)


def hinted_prompt(first, second):
    return build_prompt("", f"{first} and {second}? Reason.")


def _completion(first, second, more=""):
    return format_completion(f"{first} + {second} = {first + second}{more}", str(first + second), TAGS)


def _pretrained(folder, pairs, limit_tokens):
    """(A model that has learned pairs of prompts and completions, its tokenizer)."""
    prompts, completions = (list(each) for each in zip(*pairs, strict=True))
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
