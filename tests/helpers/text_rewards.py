"""Rewards of a user's own, for tests: they need nothing but the texts."""


def count_vowels(prompts, completions, answers):
    """A reward that differs between random texts."""
    return [float(sum(text.count(vowel) for vowel in "aeiou")) for text in completions]


def pays_all_alike(prompts, completions, answers):
    """A reward without signal."""
    return [1.0 for _ in completions]
