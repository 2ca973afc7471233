"""NExT-QA's open answers: WUPS of the words that matter (Xiao et al., CVPR 2021; Malinowski and Fritz, NIPS 2014)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from navila_eval.scoring.text import mean
from navila_eval.scoring.wordnet import WordNet

#: Words -> Penn Treebank tag of each.
Tagger = Callable[[list[str]], list[str]]
#: A word -> its stem.
Stemmer = Callable[[str], str]
#: Two words -> how alike they are, 0 … 1.
Similarity = Callable[[str, str], float]

_STOP_WORDS = """
i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he him his
himself she she's her hers herself it it's its itself they them their theirs themselves what which who whom this
that that'll these those am is are was were be been being have has had having do does did doing a an the and but if
or because as until while to from of at for with about into through during again further then here there when where
why how all any each most other some such only own so than too very s t can will just don don't should should've now
d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn doesn't hadn hadn't hasn hasn't haven haven't isn
isn't ma mightn mightn't mustn mustn't needn needn't shan shan't shouldn shouldn't wasn wasn't weren weren't won
won't wouldn wouldn't
"""
#: NExT-QA's list of words that do not count: most of NLTK's, without negations and words of place and number.
STOP_WORDS = frozenset(_STOP_WORDS.split())

_PARTS = {"NN": "n", "JJ": "a", "VB": "v", "RB": "r"}


def words(text: str) -> list[str]:
    """Words and punctuation of a text as NLTK and the Penn Treebank divide them (`isn't` -> is n't).

    A sentence ends at ! and ?, and at a period after two letters or digits; NLTK knows abbreviations by a table.
    """
    return [word for sentence in re.split(r"(?<=\w\w\.|..[!?])\s+", text) for word in _sentence_words(sentence)]


def _sentence_words(text: str) -> list[str]:
    for pattern, replacement in _DIVISIONS:
        text = pattern.sub(replacement, text)
    text = f" {text} "
    for pattern, replacement in _CLITICS:
        text = pattern.sub(replacement, text)
    return text.split()


_DIVISIONS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("([\u00ab\u201c\u2018\u201e]|`+)", r" \1 "),
        (r'^"', " `` "),
        (r"([ (\[{<])(\"|'{2})", r"\1 `` "),
        (r"(?i)(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
        (r"([^.])\.([\])}>\"'\u00bb\u201d\u2019 ]*)\s*$", r"\1 . \2 "),
        (r"([:,])([^\d])", r" \1 \2"),
        (r"([:,])$", r" \1 "),
        (r"\.{2,}|[;@#$%&?!*\u2012-\u2015]", r" \g<0> "),
        (r"([^'])' ", r"\1 ' "),
        (r"[\][(){}<>]|--", r" \g<0> "),
    )
]
_CLITICS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("([\u00bb\u201d\u2019])", r" \1 "),
        (r"''|\"", " '' "),
        (r"\s+", " "),
        (r"([^' ])('[sSmMdD]|') ", r"\1 \2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
        (r"(?i)\b(can)(not)\b", r" \1 \2 "),
        (r"(?i)\b(d)('ye)\b", r" \1 \2 "),
        (r"(?i)\b(gim|lem)(me)\b", r" \1 \2 "),
        (r"(?i)\b(gon|wan)(na)\b", r" \1 \2 "),
        (r"(?i)\b(got)(ta)\b", r" \1 \2 "),
        (r"(?i)\b(more)('n)\b", r" \1 \2 "),
        (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
    )
]


def lemmas(text: str, wordnet: WordNet, tag: Tagger | None = None, stem: Stemmer | None = None) -> list[str]:
    """Base forms of a text's words, in lower case.

    With NLTK's tagger and stemmer (`nltk_tagger`, `nltk_stemmer`) these are the published scorer's (pywsd). Without a
    tagger a word is taken for the first part of speech WordNet lists it under; figures then differ a little and are to
    be called so. Words WordNet does not know become their stem where it knows that.
    """
    tokens = words(text)
    if tag is None:
        return [_untagged(word.lower(), wordnet) for word in tokens]

    def base(word: str, name: str) -> str:
        lemma = wordnet.lemma(word, _PARTS.get(name[:2]) or _PARTS.get(tag([word])[0][:2], "n"))
        if stem is None or wordnet.first_sense(lemma) is not None:
            return lemma
        cut = stem(word)
        return word if wordnet.first_sense(cut) is None else cut

    return [base(word.lower(), name) for word, name in zip(tokens, tag(tokens) if tokens else [], strict=True)]


def _untagged(word: str, wordnet: WordNet) -> str:
    sense = wordnet.first_sense(word)
    return word if sense is None else wordnet.lemma(word, sense[0])


def content(text: str | None, wordnet: WordNet, tag: Tagger | None = None, stem: Stemmer | None = None) -> str:
    """The base forms that are no stop words, divided by spaces."""
    return " ".join(word for word in lemmas(text or "", wordnet, tag, stem) if word not in STOP_WORDS)


def wups(first: Sequence[str], second: Sequence[str], similarity: Similarity, alpha: float = 0.0) -> float:
    """Product over the first's words of their best likeness among the second's; words like none are left out.

    A likeness under `alpha` counts a tenth; equal words are 1. Without any likeness at all it is 0.
    """

    def like(a: str, b: str) -> float:
        if a == b:
            return 1.0
        value = similarity(a, b)
        return value if value >= alpha else 0.1 * value

    best = [max((like(a, b) for b in second), default=0.0) for a in first]
    product, some = 1.0, False
    for value in best:
        if value:
            product, some = product * value, True
    return product if some else 0.0


def nextqa_score(
    prediction: str, answers: Iterable[str], kind: str, similarity: Similarity, alpha: float = 0.0
) -> float:
    """Score of one open answer, 0 … 1, the best over references: equality for yes/no and counts, else WUPS.

    Args:
        prediction: its `content`.
        answers: the `content` of each reference.
        kind: question type; `DB` and `DC` want equality.
        similarity: such as `WordNet.similarity`.
        alpha: WUPS' threshold; NExT-QA's tables have 0.
    """
    if kind in ("DB", "DC"):
        return float(any(prediction == answer for answer in answers))
    given = words(prediction)
    return max(
        (
            min(wups(given, truth, similarity, alpha), wups(truth, given, similarity, alpha))
            for truth in map(words, answers)
        ),
        default=0.0,
    )


def nextqa_scores(rows: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Means of (question type, score): each type (TP counts as TN), groups C, T and D, and `overall`; fractions."""
    types: dict[str, list[float]] = {}
    for kind, value in rows:
        types.setdefault("TN" if kind == "TP" else kind, []).append(value)
    groups = {
        group: [value for kind, values in types.items() if kind.startswith(group) for value in values]
        for group in "CTD"
    }
    everything = [value for values in types.values() for value in values]
    return {"overall": mean(everything), **{name: mean(values) for name, values in (groups | types).items()}}


def nltk_tagger() -> Tagger | None:
    """NLTK's tagger, where it and its data are installed; None otherwise."""
    try:
        from nltk import pos_tag  # pyright: ignore[reportMissingImports]

        pos_tag(["word"])
    except (ImportError, LookupError):
        return None
    return lambda tokens: [name for _, name in pos_tag(tokens)]


def nltk_stemmer() -> Stemmer | None:
    """NLTK's Porter stemmer, where NLTK is installed; None otherwise."""
    try:
        from nltk.stem import PorterStemmer  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return PorterStemmer().stem
