"""Corpus measures of captions and short answers: BLEU, ROUGE-L, CIDEr and METEOR as coco-caption computes them.

They take text whose words are divided by single spaces (see `ptb.caption_words`), for each sample one prediction and
its references. Everything is a fraction, not a percentage; CIDEr's scale of 10 is built in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

#: n-gram -> how often it occurs.
Counts = Mapping[tuple[str, ...], int]


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], max_order: int = 4) -> tuple[float, ...]:
    """Corpus BLEU-1 … BLEU-`max_order`, brevity by the closest reference (Papineni et al., 2002; coco-caption's form).

    Raises:
        ValueError: predictions and references differ in number, or a sample has no reference.
    """
    return bleu_of(bleu_counts(predictions, references, max_order), max_order)


def bleu_counts(
    predictions: Sequence[str], references: Sequence[Sequence[str]], max_order: int = 4
) -> list[tuple[int, ...]]:
    """What BLEU adds up, of each sample: length, closest reference's length, matching and possible n-grams by order.

    Raises:
        ValueError: predictions and references differ in number, or a sample has no reference.
    """
    _check(predictions, references)
    rows = []
    for prediction, texts in zip(predictions, references, strict=True):
        words = len(prediction.split())
        counts = _ngrams(prediction, max_order)
        allowed: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            allowed |= _ngrams(text, max_order)
        matched = [0] * max_order
        for ngram, count in counts.items():
            matched[len(ngram) - 1] += min(count, allowed[ngram])
        # Of two references equally close, the shorter.
        _, closest = min((abs(len(text.split()) - words), len(text.split())) for text in texts)
        rows.append((words, closest, *matched, *(max(0, words - order) for order in range(max_order))))
    return rows


def bleu_of(counts: Sequence[Sequence[float]], max_order: int = 4) -> tuple[float, ...]:
    """BLEU-1 … BLEU-`max_order` of rows of `bleu_counts`, or of sums of them."""
    length, reference_length, *ngrams = map(sum, zip(*counts, strict=True)) if counts else [0] * (2 + 2 * max_order)
    matched, possible = ngrams[:max_order], ngrams[max_order:]
    # These two keep an empty corpus at 0 and are part of the published figures.
    tiny, small = 1e-15, 1e-9
    ratio = (length + tiny) / (reference_length + small)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for order, (right, total) in enumerate(zip(matched, possible, strict=True)):
        product *= (right + tiny) / (total + small)
        scores.append(product ** (1 / (order + 1)) * brevity)
    return tuple(scores)


def rouge_l(prediction: str, references: Sequence[str], beta: float = 1.2) -> float:
    """ROUGE-L of one sample: F of best precision and best recall over references (Lin, 2004; coco-caption's form).

    As there, an empty text is one empty word, so that it matches an empty reference and nothing else.
    """
    words = prediction.split(" ")
    common = [(_longest_common(words, text.split(" ")), len(text.split(" "))) for text in references]
    precision = max(length / len(words) for length, _ in common)
    recall = max(length / total for length, total in common)
    if not precision or not recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def cider(
    predictions: Sequence[str], references: Sequence[Sequence[str]], max_order: int = 4, sigma: float = 6.0
) -> list[float]:
    """CIDEr of every sample; the corpus' is their mean (Vedantam et al., 2015).

    This is what coco-caption and all published tables call CIDEr: with clipped counts and a Gaussian of the difference
    in length (the paper's CIDEr-D), n-grams weighted by their inverse document frequency in these very references. A
    corpus of one sample therefore scores 0.

    Raises:
        ValueError: predictions and references differ in number, or a sample has no reference.
    """
    _check(predictions, references)
    counted = [[_ngrams(text, max_order) for text in texts] for texts in references]
    documents: Counter[tuple[str, ...]] = Counter()
    for sample in counted:
        documents.update({ngram for counts in sample for ngram in counts})
    log_samples = math.log(len(predictions)) if predictions else 0.0
    rarity = {ngram: log_samples - math.log(count) for ngram, count in documents.items()}

    def weigh(counts: Counts) -> list[dict[tuple[str, ...], float]]:
        vectors: list[dict[tuple[str, ...], float]] = [{} for _ in range(max_order)]
        for ngram, count in counts.items():
            vectors[len(ngram) - 1][ngram] = count * rarity.get(ngram, log_samples)
        return vectors

    scores = []
    for prediction, sample in zip(predictions, counted, strict=True):
        counts = _ngrams(prediction, max_order)
        vectors, length = weigh(counts), _bigrams(counts)
        total = 0.0
        for reference in sample:
            penalty = math.exp(-((length - _bigrams(reference)) ** 2) / (2 * sigma**2))
            total += penalty * sum(map(_clipped_cosine, vectors, weigh(reference)))
        scores.append(10 * total / max_order / len(sample))
    return scores


def _clipped_cosine(prediction: Mapping[tuple[str, ...], float], reference: Mapping[tuple[str, ...], float]) -> float:
    product = sum(
        min(weight, reference.get(ngram, 0.0)) * reference.get(ngram, 0.0) for ngram, weight in prediction.items()
    )
    norms = math.hypot(*prediction.values()) * math.hypot(*reference.values())
    return product / norms if norms else product


def _bigrams(counts: Counts) -> int:
    """How long CIDEr takes a text to be: the number of its bigrams."""
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _ngrams(text: str, max_order: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(
        tuple(words[start : start + order])
        for order in range(1, max_order + 1)
        for start in range(len(words) - order + 1)
    )


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence of words."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for column, other in enumerate(b, start=1):
            diagonal, row[column] = row[column], diagonal + 1 if word == other else max(row[column], row[column - 1])
    return row[-1]


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions do not fit {len(references)} lists of references")
    for index, texts in enumerate(references):
        if not texts:
            raise ValueError(f"sample {index} has no reference")
