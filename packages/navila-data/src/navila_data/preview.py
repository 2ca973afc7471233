"""One page with samples as a model learns them: frames, the exact prompt, and what of it is learned."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from navila.constants import IGNORE_INDEX, IMAGE_TOKEN, IMAGE_TOKEN_INDEX
from navila.conversation import Span, Template, get_template
from navila.errors import ConfigError, DataError
from navila.files import write_atomically
from navila.pages import page

from navila_data.check_report import film_strip, style
from navila_data.mixture import Mixture
from navila_data.processor import Encoded, Processor, is_document
from navila_data.sample import Sample, messages

_MARK = html.escape(IMAGE_TOKEN)


def write_preview(
    path: Path,
    mixture: Mixture,
    *,
    title: str,
    count: int = 12,
    seed: int = 0,
    conversation: str = "llama_3",
    processors: tuple[Processor, Processor] | None = None,
) -> int:
    """Write the page; it shows some samples, always the same of a seed, and loads nothing.

    Args:
        path: the page.
        mixture: what samples are drawn from.
        title: heading of the page.
        count: samples shown at most.
        seed: decides which.
        conversation: name of the template that renders prompts.
        processors: what tokenises them instead, without and with the model's limit (`navila_data.tokens`).

    Returns:
        How many samples are shown.

    Raises:
        UnknownComponentError: there is no such template.
        ConfigError: the page cannot be written.
    """
    template = get_template(conversation) if processors is None else processors[1].template
    drawn = np.random.default_rng(seed).choice(len(mixture), min(count, len(mixture)), replace=False)
    cards = "".join(_card(mixture, index, template, processors) for index in sorted(drawn.tolist()))
    with_tokens = " Each shade is a token." if processors else ""
    body = (
        f'<p class="note">{len(drawn)} of {len(mixture):,} samples, drawn with seed {seed}. Prompts as the template '
        f"{html.escape(getattr(template, 'name', conversation))} renders them; "
        f'<mark>what is marked</mark> is learned.{with_tokens}</p><div class="cards">{cards}</div>'
    )
    try:
        write_atomically(path, page(title, body, style=style()))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): choose another file.") from None
    return len(drawn)


def _card(mixture: Mixture, index: int, template: Template, processors: tuple[Processor, Processor] | None) -> str:
    dataset, number = mixture.locate(index)
    try:
        sample = dataset[number]
    except DataError as error:
        return _article(f"{dataset.name}, record {number}", "", f'<p class="bad">{html.escape(str(error))}</p>')
    facts = [f"group {sample.group}"] if sample.group else []
    facts.append(f"{len(sample.media)} media")
    if blacks := sum(medium is None for medium in sample.media):
        facts.append(f"{blacks} of them black: there was no earlier frame")
    try:
        if processors is None:
            text = _spans(_rendered(sample, template))
        else:
            text, told = _tokens(sample, *processors)
            facts += told
    except DataError as error:
        text = f'<p class="bad">{html.escape(str(error))}</p>'
    labels = [_label(sample, place) for place in range(len(sample.media))]
    content = f"{film_strip(sample.media, labels)}<pre>{text}</pre>"
    return _article(f"{sample.source}, record {sample.record}", " · ".join(facts), content)


def _article(name: str, facts: str, content: str) -> str:
    heading = f"<h3>{html.escape(name)}</h3><small>{html.escape(facts)}</small>"
    return f'<article class="sample"><header>{heading}</header>{content}</article>'


def _label(sample: Sample, place: int) -> str:
    if sample.media[place] is None:
        return "black"
    if place < sample.history:
        return f"history {place + 1}"
    return "now" if sample.history else f"{place + 1}"


def _rendered(sample: Sample, template: Template) -> list[Span]:
    if is_document(sample.turns):
        return [Span(sample.turns[0].text, "answer")]
    return template.spans(messages(sample.turns))


def _spans(spans: Sequence[Span]) -> str:
    """Spans as HTML; marked is what is learned, of which images are no part."""
    return "".join(_marked(span.text) if span.supervised else _text(span.text) for span in spans)


def _marked(text: str) -> str:
    pieces = [f"<mark>{html.escape(piece)}</mark>" if piece else "" for piece in text.split(IMAGE_TOKEN)]
    return _text(IMAGE_TOKEN).join(pieces)


def _text(text: str) -> str:
    return html.escape(text).replace(_MARK, f'<b class="image">{_MARK}</b>')


def _tokens(sample: Sample, whole: Processor, limited: Processor) -> tuple[str, list[str]]:
    """Tokens as HTML, and facts about their number.

    Raises:
        DataError: the sample is longer than the model takes, whatever is left out.
    """
    encoded = limited.encode(sample)
    facts = [f"{limited.length(encoded):,} tokens, {sum(i != IGNORE_INDEX for i in encoded.labels)} of them learned"]
    if encoded.shortened:
        length = whole.length(whole.encode(sample))
        facts.append(f"shortened from {length:,} tokens to the {limited.max_length:,} that the model takes")
    return "".join(_shades(encoded, limited)), facts


def _shades(encoded: Encoded, processor: Processor) -> Iterator[str]:
    """Every token in a shade of its own, images as one with the positions they take."""
    pieces = _pieces([i for i in encoded.input_ids if i != IMAGE_TOKEN_INDEX], processor)
    for place, (i, label) in enumerate(zip(encoded.input_ids, encoded.labels, strict=True)):
        if i == IMAGE_TOKEN_INDEX:
            yield f'<b class="image">{_MARK} {processor.tokens_per_image}</b>'
            continue
        kind = "mark" if label != IGNORE_INDEX else "span"
        yield f'<{kind} class="token{place % 2}" title="{i}">{html.escape(next(pieces))}</{kind}>'


def _pieces(ids: Sequence[int], processor: Processor) -> Iterator[str]:
    """The text of each token; of a character of several tokens, the last one has it all."""
    decode = processor.tokenizer.decode
    pending: list[int] = []
    for i in ids:
        pending.append(i)
        text = str(decode(pending, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(pending) < 8:
            yield ""
            continue
        pending = []
        yield text
