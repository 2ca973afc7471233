"""Which option a reply chooses: the parsers of multiple-choice benchmarks, each as its scorer has it.

A reply that names no option gives None, which is wrong; where a published scorer draws a random option instead, the
caller may hand in the generator to do so (`item_rng`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from navila_eval.scoring.vqa import exact_match

#: `navila`: NaVILA's copy of MMMU's parser (MMMU, EgoSchema, CinePile); `lmms`: lmms-eval's (MMMU, NExT-QA), which
#: takes a letter at the end of a word too; `lmms-egoschema`: lmms-eval's EgoSchema, which takes the first one named.
ChoiceProfile = Literal["navila", "lmms", "lmms-egoschema"]


def letters(count: int) -> tuple[str, ...]:
    """A, B, C … for `count` options."""
    return tuple(chr(ord("A") + index) for index in range(count))


def by_letter(options: Sequence[str]) -> dict[str, str]:
    """Options by their letters."""
    return dict(zip(letters(len(options)), options, strict=True))


def item_rng(benchmark: str, item: str, seed: int = 42) -> random.Random:
    """A generator for one item's random option: the same however the items are divided among processes."""
    return random.Random(f"{benchmark}:{item}:{seed}")


def parse_choice(
    text: str | None,
    choices: Sequence[str],
    options: Mapping[str, str] | None = None,
    profile: ChoiceProfile = "navila",
    rng: random.Random | None = None,
) -> str | None:
    """The letter a reply chooses, by MMMU's rules (Yue et al., CVPR 2024).

    The article in `A cat` counts as option A; `b`, `C) foo` and `**D**` count as none.

    Args:
        text: the reply.
        choices: the letters there are.
        options: letter -> text of the option, looked for in replies of more than five words without a letter.
        profile: whose copy of the rules.
        rng: draws the option where the reply names none, as the published scorers do; without it None is returned.
    """
    reply = text or ""
    for character in ",.!?;:'":
        reply = reply.strip(character)
    reply = f" {reply} "
    if profile == "lmms-egoschema":
        found = _named(reply, choices, ("({})", "{} ", "{}."))
        chosen = min(found, key=lambda pair: reply.rfind(pair[1]), default=None)
    else:
        forms = ("({})", " {} ") if profile == "navila" else ("({})", "{} ", "{}.")
        found = next((named for form in forms if (named := _named(reply, choices, (form,)))), [])
        # Of several the last one named. lmms-eval looks for letters between spaces, even if it found them otherwise.
        between = [(letter, form if form.startswith("(") else f" {letter} ") for letter, form in found]
        chosen = max(between, key=lambda pair: reply.rfind(pair[1]), default=None)
    if chosen is not None:
        return chosen[0]
    if options and len(reply.split()) > 5:
        lowered = reply.lower()
        contained = [letter for letter, option in options.items() if option.lower() in lowered]
        last = min if profile == "lmms-egoschema" else max
        if contained:
            return last(contained, key=lambda letter: lowered.rfind(options[letter].lower()))
    return rng.choice(choices) if rng and choices else None


def _named(reply: str, choices: Sequence[str], forms: Sequence[str]) -> list[tuple[str, str]]:
    """(letter, as it is written) for every form of a letter that occurs."""
    return [(letter, form.format(letter)) for form in forms for letter in choices if form.format(letter) in reply]


def first_character(text: str | None) -> str | None:
    """The first character of the trimmed reply (NaVILA's Perception Test; SEED-Bench, which ignores its case)."""
    return (text or "").strip()[:1] or None


def letter_of_word(text: str | None, choices: Sequence[str] = "ABCD") -> str | None:
    """The first letter that stands as a word of its own (lmms-eval's Perception Test)."""
    match = re.search(rf"\b([{''.join(choices)}])\b", text or "")
    return match[1] if match else None


#: Beginnings that Video-MME's scorer removes. The last two are four strings that lack commas between them.
_VIDEOMME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is" + "The correct option is",
    "Best answer:" + "Best option:",
)


def videomme_choice(text: str | None) -> str | None:
    """The first of A, B, C and D anywhere in the reply, even in a word (Fu et al., CVPR 2025)."""
    reply = (text or "").strip()
    for prefix in _VIDEOMME_PREFIXES:
        reply = reply.replace(prefix, "")
    match = re.search("[ABCD]", reply)
    return match[0] if match else None


def ai2d_match(text: str | None, letter: str) -> float:
    """1 if the reply is the letter, or begins with it and a period (lmms-eval's AI2D, `flexible-extract`)."""
    match = re.match(r"\s*([A-Z])\.", text or "")
    return exact_match(match[1] if match else text, letter)


def scienceqa_match(text: str | None, letter: str, profile: Literal["lmms", "llava"] = "lmms") -> float:
    """1 if the trimmed reply is the letter, case apart (`lmms`: lmms-eval 0.2.4, to which `A.` is wrong).

    `llava`, LLaVA's script, minds the case, and takes `A. words` and one `The answer is A.` within a reply, too.
    """
    reply = (text or "").strip()
    if profile == "lmms":
        return float(reply.lower() == letter.strip().lower())
    named = re.findall(r"The answer is ([A-Z]).", reply)
    if reply in tuple("ABCDE") or re.match(r"[A-E]\. ", reply):
        return float(reply[0] == letter)
    return float(named == [letter])


_DIGITS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip


def realworldqa_match(text: str | None, question: str, answer: str) -> float:
    """1 if the reply, or the letter of the option it holds, is the answer (lmms-eval's RealWorldQA).

    A reply of one number word becomes digits, punctuation goes, then an option's text from the question becomes its
    letter.
    """
    reply = text or ""
    reply = re.sub(r"[^\w\s]", "", _DIGITS.get(reply.lower(), reply)).strip()
    options = [option.strip() for _, option in re.findall(r"\b([A-Z])\.\s+([^\n]*)", question)]
    match = re.search("|".join(map(re.escape, options)), reply)
    # Of options alike the last one's letter.
    named = dict(zip(options, letters(len(options)), strict=True)).get(match[0]) if match else None
    return exact_match(named or reply, answer)


_ANNOUNCED = r"(?:answer|option|choice)(?:\s+is)?\s*:?\s*"


def strict_choice(text: str | None, choices: Sequence[str], options: Mapping[str, str] | None = None) -> str | None:
    """The one letter a reply names beyond doubt, in any usual spelling; navila's own rule, in no published table.

    `b`, `(B)`, `B) foo`, `**B**`, `Answer: B` and the option's text are B; `A cat` and `A or B` are none.
    """
    reply = re.sub(r"[*_`]", "", text or "").strip()
    some = "".join(choices)
    bracketed = set(re.findall(rf"\(([{some}])\)", reply))
    if len(bracketed) > 1:
        return None
    for pattern in (
        rf"\W*([{some}])\W*",
        rf"\W*([{some}])\s*[).:].*",
        rf".*\b{_ANNOUNCED}\W*([{some}])\b(?!\s+or\b).*",
    ):
        if match := re.fullmatch(pattern, reply, re.IGNORECASE | re.DOTALL):
            return match[1].upper()
    if bracketed:
        return bracketed.pop()
    plain = reply.rstrip(".").strip().lower()
    equal = [letter for letter, option in (options or {}).items() if option.strip().rstrip(".").lower() == plain]
    return equal[0] if len(equal) == 1 else None


def videomme_scores(rows: Sequence[tuple[str | None, str]]) -> dict[str, float]:
    """Accuracy of (parsed, true) letters: of those parsed (Video-MME's script) and of all (lmms-eval), fractions."""
    hits = sum(parsed == truth for parsed, truth in rows)
    answered = sum(parsed is not None for parsed, _ in rows)
    return {
        "accuracy_answered": hits / answered if answered else 0.0,
        "accuracy_all": hits / len(rows) if rows else 0.0,
        "n_unparsed": float(len(rows) - answered),
    }


#: CinePile's question categories -> short names; those of the data are broken over two lines.
CINEPILE_CATEGORIES = {
    "Character and\nRelationship Dynamics": "crd",
    "Narrative and\nPlot Analysis": "npa",
    "Setting and\nTechnical Analysis": "sta",
    "Temporal": "temp",
    "Theme Exploration": "th",
}


def egoschema_index(letter: str | None) -> int:
    """0 … 4 for A … E as a submission has it, 0 where the reply names none (NaVILA's converter)."""
    return "ABCDE".find(letter or " ") if letter and letter in "ABCDE" else 0
