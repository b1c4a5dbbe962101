"""Which test questions stand among the training rows."""

from gsm8k_grpo.data.overlap import find_names, find_overlap

TRAIN = [
    "Natalia sold clips to 48 of her friends in April, and then Natalia sold half as many clips in May. How many?",
    "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?",
    "A robe takes 2 bolts of Ann's blue fiber. How many?",
]
TEST = {
    "words": (
        "Natalia SOLD clips to 48 of her friends in April and then Natalia sold half as many clips in May: how many?"
    ),
    "numbers and names": (
        "Emil sold clips to 1,200 of her friends in June, and then Emil sold half as many clips in July. How many?"
    ),
    "passage": (
        "Ten people sew. A robe takes 2 bolts of blue fiber and half that much white fiber. What do 3 of them need?"
    ),
    "another verb": (
        "Emil lost clips to 12 of her friends in June, and then Emil lost half as many clips in July. How many?"
    ),
    "apostrophe": "A robe takes 2 bolts of Ann’s blue fiber. How many?",
    "short": "How many bolts in total does it take?",
}


def test_each_way_of_being_alike_is_told_from_the_others():
    train = [{"question": text} for text in TRAIN]
    rows = [{"id": name, "question": text} for name, text in TEST.items()]
    found = find_overlap(train, {"other": rows, "none": [{"id": "x", "question": "What is 1 + 1?"}]})
    assert found["other"] == {
        "rows": 6,
        "same": ["words", "apostrophe"],
        "same_but_for_numbers_and_names": ["words", "numbers and names", "apostrophe"],
        "shared_passage": ["words", "passage"],
    }
    assert found["none"] == {"rows": 1, "same": [], "same_but_for_numbers_and_names": [], "shared_passage": []}


def test_a_capital_at_the_beginning_of_a_sentence_makes_no_name():
    text = "Sell 2. Sell 3. Must they sell it? (Sell!) Once Mark had a mark, and Mark met Zoe."
    assert {"mark", "zoe"} <= find_names([text]) and "sell" not in find_names([text])
