"""The conversation templates of LLaVA, VILA and NaVILA checkpoints, as data."""

from __future__ import annotations

from typing import Any

from navila.conversation import ConversationTemplate, Style

_HUMAN = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_USER = _HUMAN.replace("human", "user")
_LLAVA = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
_MMTAG = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant is able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_SAFE = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_RENEWABLE = (
    (
        "user",
        "What are the key differences between renewable and non-renewable energy sources?",
    ),
    (
        "assistant",
        "Renewable energy sources are those that can be replenished naturally in a relatively short amount of time, "
        "such as solar, wind, hydro, geothermal, and biomass. Non-renewable energy sources, on the other hand, are "
        "finite and will eventually be depleted, such as coal, oil, and natural gas. Here are some key differences "
        "between renewable and non-renewable energy sources:\n"
        "1. Availability: Renewable energy sources are virtually inexhaustible, while non-renewable energy sources are "
        "finite and will eventually run out.\n"
        "2. Environmental impact: Renewable energy sources have a much lower environmental impact than non-renewable "
        "sources, which can lead to air and water pollution, greenhouse gas emissions, and other negative effects.\n"
        "3. Cost: Renewable energy sources can be more expensive to initially set up, but they typically have lower "
        "operational costs than non-renewable sources.\n"
        "4. Reliability: Renewable energy sources are often more reliable and can be used in more remote locations "
        "than non-renewable sources.\n"
        "5. Flexibility: Renewable energy sources are often more flexible and can be adapted to different situations "
        "and needs, while non-renewable sources are more rigid and inflexible.\n"
        "6. Sustainability: Renewable energy sources are more sustainable over the long term, while non-renewable "
        "sources are not, and their depletion can lead to economic and social instability.\n",
    ),
)

_CHATML = {
    "user": "<|im_start|>user\n",
    "assistant": "<|im_start|>assistant\n",
    "style": Style.MPT,
    "sep": "<|im_end|>",
}


def _single(name: str, system: str, **fields: Any) -> ConversationTemplate:
    return ConversationTemplate(
        name=name, style=Style.SINGLE, system=system, user="Human", assistant="Assistant", sep="###", **fields
    )


def _two(name: str, system: str, **fields: Any) -> ConversationTemplate:
    return ConversationTemplate(
        name=name, style=Style.TWO, system=system, user="USER", assistant="ASSISTANT", sep=" ", sep2="</s>", **fields
    )


TEMPLATES: tuple[ConversationTemplate, ...] = (
    ConversationTemplate(name="auto", style=Style.AUTO, sep="\n"),
    # The template of the released NaVILA checkpoints.
    ConversationTemplate(
        name="llama_3",
        style=Style.LLAMA_3,
        system=f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{_LLAVA}",
        user="<|start_header_id|>user<|end_header_id|>\n\n",
        assistant="<|start_header_id|>assistant<|end_header_id|>\n\n",
        sep="<|eot_id|>",
        sep2="<|end_of_text|>",
    ),
    _single("default", _HUMAN, aliases=("v0",), examples=_RENEWABLE),
    _two("vicuna_v1", _USER, aliases=("v1",)),
    _two("vicuna_v1_nosys", ""),
    ConversationTemplate(
        name="llama_2", style=Style.LLAMA_2, system=_SAFE, user="USER", assistant="ASSISTANT", sep="<s>", sep2="</s>"
    ),
    ConversationTemplate(
        name="llava_llama_2",
        style=Style.LLAMA_2,
        system=_LLAVA,
        user="USER",
        assistant="ASSISTANT",
        sep="<s>",
        sep2="</s>",
    ),
    ConversationTemplate(name="mistral", style=Style.MISTRAL, user="USER", assistant="ASSISTANT", sep2="</s>"),
    ConversationTemplate(
        name="mpt",
        system="<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
        "The assistant gives helpful and honest answers.",
        **_CHATML,
    ),
    ConversationTemplate(name="hermes-2", system="<|im_start|>system\nAnswer the questions.", **_CHATML),
    ConversationTemplate(name="plain", style=Style.PLAIN, sep="\n", aliases=("v0_plain",)),
    _single("llava_v0", _HUMAN),
    _single("v0_mmtag", _MMTAG, image_tags=True),
    _two("llava_v1", _HUMAN),
    _two("v1_mmtag", _MMTAG, image_tags=True),
)


def __getattr__(name: str) -> ConversationTemplate:
    """The template of that name, with `_` for `-`: what the descriptions of core's templates point to (PEP 562)."""
    for template in TEMPLATES:
        if template.name.replace("-", "_") == name:
            return template
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
