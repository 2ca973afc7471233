"""Conversation templates against prompts made by the original code, and what their spans promise."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from navila.chat_template import ChatTemplate
from navila.conversation import (
    ConversationTemplate,
    Message,
    Style,
    caption_spans,
    clean_messages,
    get_template,
    legacy_template_for_name,
    template_for_checkpoint,
)
from navila.errors import ConfigError, DataError, NavilaError, UnknownComponentError
from navila.templates import TEMPLATES

RENDERING = [template for template in TEMPLATES if template.style not in (Style.AUTO, Style.PLAIN)]
TURNS: list[Message] = [
    ("user", "<image>\nWhat do you see?"),
    ("assistant", "A red door."),
    ("user", "And the floor?"),
    ("assistant", "Grey."),
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def golden_prompts(goldens: Path) -> list[dict[str, Any]]:
    cases = json.loads((goldens / "A_conversation" / "prompts.json").read_text())
    assert len(cases) == 648
    return cases


def as_messages(pairs: list[list[Any]]) -> list[Message]:
    """The original's pairs, whose roles are each template's own words, as messages."""
    contents = [tuple(content) if isinstance(content, list) else content for _, content in pairs]
    return [("assistant" if number % 2 else "user", content) for number, content in enumerate(contents)]


def template_of(case: dict[str, Any]) -> ConversationTemplate:
    template = get_template(case["template"])
    # Conversations that open with a picture were recorded without the examples of `default`.
    return dataclasses.replace(template, examples=()) if 0 in case["tuple_messages"] else template


def test_every_prompt_equals_the_original(goldens: Path) -> None:
    for case in golden_prompts(goldens):
        if case.get("prompt") is not None:
            prompt = template_of(case).render(as_messages(case["messages"]), system=case["system"])
            assert prompt == case["prompt"], (case["template"], case["case"])


def test_what_the_original_cannot_render_is_one_clear_sentence(goldens: Path) -> None:
    failing = [case for case in golden_prompts(goldens) if case.get("prompt") is None]
    assert {case["template"] for case in failing} == {"auto", "plain", "v0_plain"}
    for case in failing:
        with pytest.raises(NavilaError, match=r"navila\.(chat_template|conversation)\."):
            template_of(case).render(as_messages(case["messages"]))


def test_the_templates_are_those_of_the_original(goldens: Path) -> None:
    recorded = json.loads((goldens / "A_conversation" / "templates.json").read_text())
    assert {name for t in TEMPLATES for name in (t.name, *t.aliases)} == set(recorded)
    for name, fields in recorded.items():
        template = get_template(name)
        assert template.style.name == fields["sep_style"]
        assert (template.system, [template.user, template.assistant]) == (fields["system"], fields["roles"])
        assert (template.sep, template.sep2) == (fields["sep"], fields["sep2"])
        assert [text for _, text in template.examples] == [text for _, text in fields["preset_messages"]]
        assert {n for n in recorded if get_template(n) is template} == {name, *fields["same_object_as"]}


@pytest.mark.parametrize("template", RENDERING, ids=lambda template: template.name)
def test_spans_are_the_prompt_and_supervise_answers_with_their_stop_strings(template: ConversationTemplate) -> None:
    spans = template.spans(TURNS)
    assert "".join(span.text for span in spans) == template.render(TURNS)
    assert all(span.text for span in spans)
    own = [span for span in dataclasses.replace(template, examples=()).spans(TURNS) if span.supervised]
    assert [span.text.strip() for span in own if span.kind == "answer"] == ["A red door.", "Grey."]
    stops = [span.text for span in own if span.kind == "stop"]
    assert len(stops) == 2
    assert set(stops) <= set(template.stop_strings)


@pytest.mark.parametrize("template", RENDERING, ids=lambda template: template.name)
def test_an_open_slot_ends_with_the_generation_prompt_and_supervises_nothing(template: ConversationTemplate) -> None:
    template = dataclasses.replace(template, examples=())
    opened = [("user", "Hi"), ("assistant", None)]
    assert template.render(opened).endswith(template.generation_prompt)
    assert not any(span.supervised for span in template.spans(opened))


def test_llama_3_ends_inner_turns_and_the_last_one_differently() -> None:
    stops = [span.text for span in get_template("llama_3").spans(TURNS) if span.kind == "stop"]
    assert stops == ["<|eot_id|>", "<|end_of_text|>"]


def test_examples_stand_in_front_once() -> None:
    template = get_template("default")
    prompt = template.render(TURNS)
    assert prompt.count("renewable and non-renewable energy sources?") == 1
    assert template.render([*template.examples, *TURNS]) == prompt


@pytest.mark.parametrize("template", RENDERING, ids=lambda template: template.name)
def test_rendering_leaves_the_messages_alone(template: ConversationTemplate) -> None:
    messages: list[Message] = [("user", ("What? <image>", object(), "Pad")), *TURNS[1:]]
    before = copy.copy(messages)
    template.render(messages)
    template.spans(messages)
    assert messages == before


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([("assistant", "Hi")], "Message 0 is from the assistant"),
        ([("user", "a"), ("user", "b")], "Message 1 is from the user"),
        ([("system", "a")], "Message 0 is from 'system'"),
    ],
)
def test_turns_must_alternate(messages: list[Message], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        get_template("llama_3").render(messages)


def test_a_template_with_its_system_text_in_the_first_message_needs_one() -> None:
    with pytest.raises(DataError, match="Message 0 is empty"):
        get_template("llama_2").render([("user", ""), ("assistant", "Hi")])


def test_dataset_conversations_are_stripped_and_start_with_the_user() -> None:
    raw: list[Message] = [("gpt", "I start."), ("human", "\n\n q1 \n"), ("gpt", " a1")]
    assert clean_messages(raw) == [("human", "q1"), ("gpt", "a1")]
    assert raw[1] == ("human", "\n\n q1 \n")
    assert get_template("llama_3").render([("human", "q1"), ("gpt", "a1")]) == get_template("llama_3").render(
        [("user", "q1"), ("assistant", "a1")]
    )


def test_message_stripping_equals_the_original(goldens: Path) -> None:
    for raw, clean in json.loads((goldens / "B_tokenization" / "misc.json").read_text())["normalize"]:
        assert clean_messages([("user", raw)]) == [("user", clean)]


def test_captions_need_an_image_and_two_messages() -> None:
    assert [span.text for span in caption_spans([("user", "What? <image>"), ("assistant", "A door.")])] == [
        "<image>",
        "A door.\n",
    ]
    with pytest.raises(DataError, match="lacks <image>"):
        caption_spans([("user", "What?"), ("assistant", "A door.")])
    with pytest.raises(DataError, match="one user message"):
        caption_spans(TURNS)


def test_an_unknown_template_suggests_close_ones() -> None:
    with pytest.raises(UnknownComponentError, match="llama_3"):
        get_template("lama_3")


def test_a_checkpoint_names_its_template() -> None:
    llama_3 = SimpleNamespace(get_vocab=lambda: {"<|start_header_id|>": 0, "<|eot_id|>": 1}, chat_template=None)
    assert template_for_checkpoint({"conversation": "vicuna_v1"}, llama_3).name == "vicuna_v1"
    assert template_for_checkpoint(SimpleNamespace(template="mistral"), llama_3).name == "mistral"
    with pytest.raises(UnknownComponentError):
        template_for_checkpoint({"conversation": "no-such-template"}, llama_3)


@pytest.mark.parametrize(
    ("vocabulary", "template"),
    [
        (("<|start_header_id|>", "<|eot_id|>", "<|im_end|>"), "llama_3"),
        (("<|im_end|>",), "hermes-2"),
        (("</s>",), "vicuna_v1"),
    ],
)
def test_without_a_name_the_tokenizer_tells_the_template(vocabulary: tuple[str, ...], template: str) -> None:
    tokenizer = SimpleNamespace(get_vocab=lambda: dict.fromkeys(vocabulary, 0), chat_template=None)
    assert template_for_checkpoint({"_name_or_path": "mpt/prompts"}, tokenizer).name == template


def test_a_checkpoint_that_tells_nothing_is_refused() -> None:
    tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 0}, chat_template=None)
    with pytest.raises(ConfigError, match='"conversation": "llama_3"'):
        template_for_checkpoint({}, tokenizer)


def test_names_of_old_models_resolve_as_in_the_original(goldens: Path) -> None:
    recorded = json.loads((goldens / "A_conversation" / "auto_mode.json").read_text())
    for case in recorded["cases"]:
        if "error" in case:
            with pytest.raises(ConfigError, match=case["name"]):
                legacy_template_for_name(case["name"])
        else:
            assert legacy_template_for_name(case["name"]).name in case["template"]


class JinjaTokenizer:
    """As much of a tokenizer as a chat template needs, with transformers' own rendering of it."""

    def __init__(self, chat_template: str) -> None:
        self.chat_template = chat_template

    def apply_chat_template(self, conversation: list[dict[str, str]], *, tokenize: bool, **kwargs: Any) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        assert not tokenize
        (prompt,), _ = render_jinja_template([conversation], chat_template=self.chat_template, **kwargs)
        return prompt


def test_a_chat_template_renders_and_tells_the_answers() -> None:
    template = ChatTemplate(JinjaTokenizer(CHATML))
    assert template.generation_prompt == "<|im_start|>assistant\n"
    assert template.stop_strings == ("<|im_end|>",)
    opened = template.render([*TURNS[:1], ("assistant", None)], system="Be brief.")
    assert opened.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert opened.endswith(template.generation_prompt)
    spans = template.spans(TURNS)
    assert "".join(span.text for span in spans) == template.render(TURNS)
    assert [span.text for span in spans if span.kind == "answer"] == ["A red door.", "Grey."]
    assert [span.text for span in spans if span.kind == "stop"] == ["<|im_end|>\n"] * 2


def test_a_chat_template_finds_answers_that_repeat_the_question_and_odd_characters() -> None:
    messages: list[Message] = [("user", "<|im_end|>\ue000"), ("assistant", "<|im_end|>\ue000"), ("user", "a")]
    spans = ChatTemplate(JinjaTokenizer(CHATML)).spans([*messages, ("assistant", "")])
    assert [span.text for span in spans if span.kind == "answer"] == ["<|im_end|>\ue000"]
    assert [span.kind for span in spans].count("stop") == 2


def test_a_chat_template_may_trim_answers_but_not_rewrite_them() -> None:
    messages: list[Message] = [("user", "Hi"), ("assistant", " Hello ")]
    trimming = CHATML.replace("m['content']", "m['content'] | trim")
    assert [s.text for s in ChatTemplate(JinjaTokenizer(trimming)).spans(messages) if s.kind == "answer"] == ["Hello"]
    shouting = CHATML.replace("m['content']", "m['content'] | upper")
    with pytest.raises(ConfigError, match="rewrites assistant messages"):
        ChatTemplate(JinjaTokenizer(shouting)).spans(messages)


def test_a_broken_chat_template_is_one_clear_sentence() -> None:
    with pytest.raises(ConfigError, match="cannot render the conversation"):
        ChatTemplate(JinjaTokenizer("{{ raise_exception('no') }}"))
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatTemplate(SimpleNamespace(chat_template=None))
    with pytest.raises(DataError, match="Message 0 has no text"):
        ChatTemplate(JinjaTokenizer(CHATML)).render([("user", None), ("assistant", "Hi")])


def test_a_plugin_contributes_a_template(tmp_path: Path) -> None:
    (tmp_path / "my_chat.py").write_text(
        "from navila import hookimpl\n"
        "from navila.conversation import ConversationTemplate, Style\n"
        "from navila.specs import ConversationSpec\n"
        "MINE = ConversationTemplate(name='my-chat', style=Style.MPT, user='U ', assistant='A ', sep='|')\n"
        "@hookimpl\n"
        "def navila_conversations():\n"
        "    yield ConversationSpec(name='my-chat', target='my_chat:MINE', summary='mine')\n"
    )
    code = "from navila.conversation import get_template; print(get_template('my-chat').render([('user', 'x')]))"
    environment = {"NAVILA_PLUGINS": "my_chat", "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "|U x|", run.stderr


def test_the_language_modules_load_nothing_heavy() -> None:
    code = (
        "import sys, navila.conversation, navila.templates, navila.chat_template, navila.tokenization, "
        "navila.prompts, navila.frames, navila.actions\n"
        "navila.conversation.get_template('llama_3').render([('user', 'x')])\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
