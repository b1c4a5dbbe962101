"""The sample of completions that a large page shows."""

from gsm8k_grpo.report.completion_browser import OUTCOME_NAMES, balanced_sample, fixed_example, tagged_parts

TAGS = ("<r>", "</r>", "<a>", "</a>")


def test_a_sample_has_equally_many_of_each_outcome_in_their_order():
    counts = dict(zip(OUTCOME_NAMES, (4, 1, 2, 5), strict=True))
    names = [name for name in reversed(OUTCOME_NAMES) for _ in range(counts[name])]
    pairs = [{"id": index, "outcomes": {"final": name}} for index, name in enumerate(names)]

    def shares(count):
        shown = balanced_sample(pairs, count)
        assert [pair["id"] for pair in shown] == sorted(pair["id"] for pair in shown)
        return [[pair["outcomes"]["final"] for pair in shown].count(name) for name in OUTCOME_NAMES]

    assert shares(0) == [0, 0, 0, 0]
    assert shares(4) == [1, 1, 1, 1]
    assert shares(9) == [3, 1, 2, 3]
    assert shares(12) == shares(100) == [4, 1, 2, 5]


def test_the_example_is_the_shortest_row_that_training_fixed():
    def pair(name, outcome, before, after):
        sides = {side: {"completion": text} for side, text in (("base", before), ("final", after), ("best", "b"))}
        return {"id": name, "outcomes": {"final": outcome, "best": "fixed"}, "sides": sides}

    def make_row(pair):
        sides = [{"c": side["completion"]} for side in pair["sides"].values()]
        return {"id": pair["id"], "p": "Reason. How many? Go.", "q": [8, 17], "g": "5", "s": sides}

    pairs = [
        pair("a", "fixed", "4", "<r>2+3=5, as they say</r><a>5</a>"),
        pair("b", "fixed", "<a>4</a>", "<r>2+3=5</r><a>5</a>"),
        pair("c", "broken", "<a>5</a>", "4"),
    ]
    assert fixed_example(pairs, make_row, TAGS) == {
        "id": "b",
        "question": "How many?",
        "gold": "5",
        "before": tagged_parts("<a>4</a>", TAGS),
        "after": tagged_parts("<r>2+3=5</r><a>5</a>", TAGS),
    }
    assert fixed_example(pairs[2:], make_row, TAGS) is None


def test_parts_of_a_completion_join_to_its_text_and_know_their_tags():
    text = "so <r>2+3</r> is<a>5</a>, <a>6"
    parts = tagged_parts(text, TAGS)
    assert "".join(piece for _, piece in parts) == text
    assert [each for each in parts if each[0] != "tag"] == [
        ("", "so "),
        ("reasoning", "2+3"),
        ("", " is"),
        ("answer", "5"),
        ("", ", "),
        ("answer", "6"),
    ]
    assert tagged_parts("", TAGS) == []
