"""The prompt's token ids are those of the model's own `apply_chat_template`, with real tokenizers of each family.

The tokenizers are the miniatures', which have the published layout and control tokens, because the published files need
a licence. The templates are the published ones (tokenizer_config.json of google/gemma-2-2b-it, google/gemma-3-1b-it and
Qwen/Qwen2.5-0.5B-Instruct), the last without its branches for tools.
"""

import json
from types import SimpleNamespace

import pytest
import transformers
from tunix.generate import sampler, tokenizer_adapter

from gsm8k_grpo.data import word_problems
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.models import families, tokenizers
from gsm8k_grpo.models.tokenizer_training import train_tokenizer

GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA_3 = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
QWEN_25 = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant") %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
PUBLISHED = {
    "gemma2": ({"tokenizer_class": "GemmaTokenizer", "chat_template": GEMMA_2}, "tokenizer.model"),
    "gemma3": ({"tokenizer_class": "GemmaTokenizer", "chat_template": GEMMA_3}, "tokenizer.model"),
    "qwen2": (
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "chat_template": QWEN_25,
            "pad_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "bos_token": None,
        },
        "tokenizer.json",
    ),
}
QUESTIONS = [
    "Ana has 12 pens, buys 4 more. How many?",
    "  two  spaces \n",
    "line\n\n\nline\r\n\tend",
    "é − ½ 漢字 🎉 $5 100%",
    "</answer><reasoning>1,234.50</reasoning>",
    "a <end_of_turn> or <|im_end|> in a question",
    "{system} {{ braces }} %s",
]


@pytest.fixture(scope="module", params=families.FAMILIES)
def case(request, tmp_path_factory):
    """A family, our tokenizer, the model's own tokenizer, and the folder of both."""
    family = families.FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(family.name)
    rows, _ = word_problems.generate_problems(seed=0, train_rows=300, test_rows=0)
    texts = [build_prompt("Reason.", row["question"], family.template) + "<answer>1</answer>" for row in rows]
    config, file = PUBLISHED[family.name]
    (folder / file).write_bytes(train_tokenizer(texts, 600, family.name))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ours = tokenizers.load_tokenizer(folder / file, family.template)
    return SimpleNamespace(
        family=family, ours=ours, own=transformers.AutoTokenizer.from_pretrained(folder), folder=folder
    )


def sampled_ids(tokenizer, prompt):
    """The token ids that Tunix's sampler gives the model for a prompt."""
    adapted = tokenizer_adapter.TokenizerAdapter(tokenizer)
    return sampler.Sampler.tokenize(SimpleNamespace(tokenizer=adapted), prompt).tolist()


def own_ids(case, system, question):
    messages = [{"role": "user", "content": question}]
    if system and case.family.name == "gemma2":  # its template refuses the system role
        messages = [{"role": "user", "content": f"{system}\n\n{question.strip()}"}]
    elif system:
        messages = [{"role": "system", "content": system}, *messages]
    return case.own.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("system", ["", "Reason, then answer.", "Two\nlines.\n\nAnd a third."])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_prompt_has_the_token_ids_of_the_models_own_template(case, system, question):
    prompt = build_prompt(system, question, case.family.template)
    expected = own_ids(case, system, question)
    assert sampled_ids(case.ours, prompt) == expected
    assert tokenizers.count_prompt_tokens(case.ours, prompt) == len(expected)
    if case.family.template.bos:
        bos = case.own.bos_token_id
        assert expected.count(bos) == 1 and expected[0] == bos == case.ours.bos_id()


def test_blank_system_text_counts_as_none(case):
    assert build_prompt(" \n", "How?", case.family.template) == build_prompt("", "How?", case.family.template)


def test_the_template_ends_a_turn_with_the_stop_token(case):
    turn = case.own.apply_chat_template(
        [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "4"}], return_dict=False
    )
    stop = case.ours.piece_to_id(case.family.template.stops[0])
    newline = case.ours.encode("\n")
    assert turn[-1 - len(newline) :] == [stop, *newline]
    assert case.own.convert_ids_to_tokens(stop) == {"qwen2": "<|im_end|>"}.get(case.family.name, "<end_of_turn>")
    assert stop != case.ours.pad_id()


def test_control_tokens_have_the_familys_ids(case):
    control, pieces = {token: case.ours.piece_to_id(token) for token in case.family.template.needed}, len(case.ours)
    expected = {
        "gemma2": {"<start_of_turn>": 106, "<end_of_turn>": 107},
        "gemma3": {"<start_of_turn>": 105, "<end_of_turn>": 106},
        # The first ids after the pieces, in the published order (there, from 151,643).
        "qwen2": {"<|endoftext|>": pieces - 3, "<|im_start|>": pieces - 2, "<|im_end|>": pieces - 1},
    }
    assert control == expected[case.family.name]
    assert pieces == len(case.own)


@pytest.mark.parametrize("text", [*QUESTIONS, "<|im_start|>", "1234"])
def test_any_text_is_encoded_without_loss(case, text):
    # The end of a text decodes to nothing.
    assert case.ours.decode(case.ours.encode(text)) == text.replace(case.family.template.eos, "")


def test_gemmas_two_files_are_one_tokenizer(case):
    """A folder that `transformers` saved has no sentencepiece model, only tokenizer.json."""
    if case.family.template is not families.GEMMA:
        pytest.skip("has one file")
    case.own.save_pretrained(case.folder / "saved")
    fast = tokenizers.load_tokenizer(case.folder / "saved" / "tokenizer.json", families.GEMMA)
    assert (fast.bos_id(), fast.eos_id(), fast.pad_id()) == (2, 1, 0) and len(fast) == len(case.ours)
    for text in QUESTIONS:
        prompt = build_prompt("Reason.", text)
        assert fast.encode(prompt) == case.ours.encode(prompt)
        assert sampled_ids(fast, prompt) == sampled_ids(case.ours, prompt)
        ids = [2, *fast.encode(text), 1]
        assert fast.decode(ids) == case.ours.decode(ids)
