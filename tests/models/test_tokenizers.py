"""The miniatures' tokenizers have their families' layouts, and a loaded tokenizer must fit its chat template."""

import io
import json
import re

import pytest
import sentencepiece
from tokenizers import Tokenizer

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import word_problems
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.models import families, tokenizers
from gsm8k_grpo.models.tokenizer_training import train_tokenizer


@pytest.fixture(scope="module")
def texts():
    rows, _ = word_problems.generate_problems(seed=0, train_rows=300, test_rows=0)
    return [build_prompt("Reason, then answer.", row["question"]) + "<answer>1</answer>" for row in rows]


@pytest.fixture(scope="module")
def trained(texts):
    return train_tokenizer(texts, 600)


@pytest.fixture
def tokenizer(trained, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(trained)
    return tokenizers.load_tokenizer(tmp_path / "tokenizer.model")


def test_control_tokens_have_gemmas_ids(tokenizer):
    ids = (tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.bos_id(), tokenizer.unk_id())
    assert ids == (0, 1, 2, 3)
    pieces = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "\n")
    assert [tokenizer.piece_to_id(piece) for piece in pieces] == [0, 1, 2, 106, 107, 108]
    assert tokenizer.vocab_size() == 600


def test_a_prompt_begins_and_ends_with_control_tokens_and_counts_its_bos(tokenizer):
    prompt = build_prompt("Reason, then answer.", "How many?")
    ids = tokenizer.encode(prompt)
    assert ids[0] == 106 and ids[-1] == 108 and ids.count(106) == 2 and ids.count(107) == 1
    assert tokenizers.count_prompt_tokens(tokenizer, prompt) == len(ids) + 1
    assert tokenizers.count_prompt_tokens(tokenizer, "<start_of_turn>") == 2


@pytest.mark.parametrize(
    "text",
    ["Ana has 12 apples.", "  two  spaces ", "line\n\nline", "\t\r\n", "é − ½ 漢 🎉", "ＡＢ ﬁ", "a_b", "</answer>"],
)
def test_any_text_is_encoded_without_loss(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.unk_id() not in ids
    assert tokenizer.decode(ids) == text


def test_digits_are_split_and_frequent_strings_are_pieces(tokenizer):
    assert len(tokenizer.encode("1234")) == 4
    assert len(tokenizer.encode("</answer>")) == 1


def test_training_on_the_same_texts_gives_the_same_bytes(texts, trained):
    assert train_tokenizer(iter(texts), 600) == trained


def test_qwens_training_gives_the_same_bytes_too_and_has_no_more_pieces_than_asked_for(texts):
    made = train_tokenizer(texts, 400, "qwen2")
    assert made == train_tokenizer(iter(texts), 400, "qwen2")
    assert len(json.loads(made)["model"]["vocab"]) == 397
    made_tokenizer = Tokenizer.from_str(made.decode())
    assert made_tokenizer.encode("e\u0301").ids == made_tokenizer.encode("é").ids  # NFC, as published
    with pytest.raises(PipelineError, match=r"vocabulary_size: 258 pieces cannot be trained \(256 bytes and 3 control"):
        train_tokenizer(texts, 258, "qwen2")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "not a tokenizer.json"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "has no <|endoftext|> id"),
    ],
)
def test_a_tokenizer_json_that_is_torn_or_empty_is_refused(tmp_path, content, fault):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(PipelineError, match=re.escape(fault)):
        tokenizers.load_tokenizer(tmp_path / "tokenizer.model", families.QWEN)


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_vocabulary_that_does_not_fit_the_texts_is_refused(texts, size):
    with pytest.raises(PipelineError) as refused:
        train_tokenizer(texts, size)
    assert str(refused.value).startswith(f"model.architecture.vocabulary_size: {size} pieces cannot be trained (")
    assert "\n" not in str(refused.value)


def plain(texts, **options):
    """Trains a tokenizer with sentencepiece's own defaults, except some ids or symbols."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        add_dummy_prefix=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"pad_id": -1}, "the tokenizer has no <pad> id"),
        ({"pad_id": 3, "bos_id": -1}, "the tokenizer has no <bos> id"),
        ({"pad_id": 3, "eos_id": -1}, "the tokenizer has no <eos> id"),
        ({"pad_id": 3}, "the tokenizer lacks the control token <start_of_turn>"),
        (
            {"pad_id": 3, "user_defined_symbols": ["<start_of_turn>"]},
            "the tokenizer lacks the control token <end_of_turn>",
        ),
    ],
    ids=["no pad", "no bos", "no eos", "no control tokens", "one control token"],
)
def test_a_tokenizer_that_lacks_what_the_template_needs_is_refused(texts, tmp_path, options, fault):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(plain(texts, **options))
    with pytest.raises(PipelineError) as refused:
        tokenizers.load_tokenizer(path)
    assert str(refused.value).startswith(f"{path}: {fault}")


def test_a_file_that_is_missing_empty_torn_or_other_is_no_tokenizer(trained, tmp_path):
    path = tmp_path / "tokenizer.model"
    with pytest.raises(PipelineError, match="no such file; the base model's folder needs its tokenizer"):
        tokenizers.load_tokenizer(path)
    for content in (b"", b"not a model", trained[: len(trained) // 2]):
        path.write_bytes(content)
        with pytest.raises(PipelineError, match="not a sentencepiece model"):
            tokenizers.load_tokenizer(path)
