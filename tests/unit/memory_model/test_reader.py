"""Prompts as embeddings must be the prompts as tokens."""

from __future__ import annotations

import pytest
import torch

from memory_model.bundle import Bundle
from memory_model.reader import Reader
from memory_model.template import PromptBuilder, Template


@pytest.fixture
def reader(tiny_bundle: Bundle) -> Reader:
    return Reader(tiny_bundle.base, tiny_bundle.expander, tiny_bundle.config.template)


def test_the_context_stands_inside_the_users_turn(tiny_bundle: Bundle) -> None:
    builder = PromptBuilder(tiny_bundle.base.tokenizer, Template(system="Reply."))
    prompt = builder.prompt("Why?", with_context=True)
    decode = tiny_bundle.base.tokenizer.decode
    assert decode(prompt.prefix) == "<|im_start|>system\nReply.<|im_end|>\n<|im_start|>user\n"
    assert decode(prompt.suffix) == "\n\nWhy?<|im_end|>\n<|im_start|>assistant\n"


def test_without_context_the_prompt_is_the_chat_template_of_the_bare_question(
    tiny_bundle: Bundle,
) -> None:
    tokenizer = tiny_bundle.base.tokenizer
    prompt = PromptBuilder(tokenizer, Template(system="Reply.")).prompt("Why?", with_context=False)
    expected = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Reply."}, {"role": "user", "content": "Why?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert tokenizer.decode([*prompt.prefix, *prompt.suffix]) == expected


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("who bakes smoke loaf", "Who bakes smoke loaf?"),
        ('  who wrote "Ulysses"\n', 'Who wrote "Ulysses"?'),
        ("Name the baker.", "Name the baker."),
        ("誰が焼いた？", "誰が焼いた？"),
        ("42", "42?"),
        ("", ""),
    ],
)
def test_a_question_typed_in_haste_is_written_out(
    tiny_bundle: Bundle, typed: str, asked: str
) -> None:
    builder = PromptBuilder(tiny_bundle.base.tokenizer, Template(question="«{query}»"))
    for with_context in True, False:
        prompt = builder.prompt(typed, with_context=with_context)
        assert f"«{asked}»" in tiny_bundle.base.tokenizer.decode(prompt.suffix)


def test_braces_in_a_question_are_left_alone(tiny_bundle: Bundle) -> None:
    builder = PromptBuilder(tiny_bundle.base.tokenizer, Template())
    prompt = builder.prompt("What is {x} or {query}?", with_context=True)
    assert "What is {x} or {query}?" in tiny_bundle.base.tokenizer.decode(prompt.suffix)


def test_a_model_without_a_chat_template_gets_a_plain_completion(tiny_bundle: Bundle) -> None:
    import copy

    plain = copy.deepcopy(tiny_bundle.base.tokenizer)
    plain.chat_template = None
    prompt = PromptBuilder(plain, Template()).prompt("Why?", with_context=True)
    assert plain.decode([*prompt.prefix, *prompt.suffix]) == "<|im_start|>\n\nWhy?\nAnswer:"


def test_greedy_answers_from_embeddings_equal_those_from_tokens(
    tiny_bundle: Bundle, reader: Reader
) -> None:
    texts = ["the cat sat on the mat", "the dog sat on the log"]
    ids = torch.tensor([reader.text_prompt_tokens("who sat?", texts)])
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 2}
    with torch.inference_mode():
        embeds = reader.text_prompt("who sat?", texts)[None]
        from_embeds = tiny_bundle.base.lm.generate(inputs_embeds=embeds, **options)
        from_tokens = tiny_bundle.base.lm.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **options
        )
    assert from_embeds[0].tolist() == from_tokens[0, ids.shape[1] :].tolist()


def test_memories_stand_between_prefix_and_question_in_order(
    tiny_bundle: Bundle, reader: Reader
) -> None:
    codes = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0)).unbind()
    with torch.no_grad():
        prompt = reader.memory_prompt("who?", codes)
        first = len(reader.prefix_tokens)
        third = first + 2 * (4 + len(reader.separator_tokens))  # set apart as passages are
        torch.testing.assert_close(prompt[first : first + 4], tiny_bundle.expander(codes[0]))
        torch.testing.assert_close(prompt[third : third + 4], tiny_bundle.expander(codes[2]))
    assert len(prompt) == third + 4 + len(reader.suffix_tokens("who?"))


def test_memories_may_have_different_numbers_of_slots(reader: Reader) -> None:
    with torch.no_grad():
        prompt = reader.memory_prompt("who?", [torch.zeros(4, 32), torch.zeros(1, 32)])
        whole = reader.memory_prompt("who?", [torch.zeros(4, 32), torch.zeros(4, 32)])
    assert len(prompt) == len(whole) - 3


def test_a_reconstruction_prompt_ends_with_the_memory(reader: Reader) -> None:
    with torch.no_grad():
        prompt = reader.memory_prompt(None, torch.zeros(1, 4, 32))
    assert len(prompt) == len(reader.prefix_tokens) + 4
