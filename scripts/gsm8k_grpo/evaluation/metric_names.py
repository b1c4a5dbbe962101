"""The rates of an evaluation, with their labels."""

# A rate's name, and what it counts.
RATES = {
    "answer_accuracy": ("answer", "the recipe's own reading"),
    "strict_accuracy": ("strict", "answer tags or ####"),
    "flexible_accuracy": ("flexible", "last number, format ignored"),
    "cascade_accuracy": ("cascade", "\\boxed{}, else answer tags, else last number"),
    "partial_accuracy": ("within ±10 %", ""),
    "format_accuracy": ("format", ""),
    "truncated_rate": ("cut", "at the limit of tokens"),
    # Only of several samples a prompt.
    "pass_at_k": ("pass@k", "one of the samples is right"),
    "maj_at_k": ("maj@k", "most of the samples agree on the right one"),
}
# Beside the headline, by their names in comparison.json.
BESIDE = ("answer", "strict", "flexible", "partial", "format")
