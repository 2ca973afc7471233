"""Words of English captions as coco-caption's tokenizer gives them, without its Java program.

That is Stanford's Penn Treebank tokenizer, in lower case, with punctuation dropped. Its rules were learned by running
it: of WordNet's 117,659 glosses all but nine come out the same. Telephone numbers and rare emoticons are left out.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

#: Tokens coco-caption drops. It names brackets in capitals (-LRB-) but tokenises to lower case, so brackets stay.
PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})


def caption_words(text: str) -> str:
    """`text` as words divided by single spaces: lower case, Penn Treebank tokens, punctuation dropped."""
    return _words(tokenise(text))


def caption_lines(texts: Sequence[str]) -> list[str]:
    """`caption_words` of captions that are lines of one file, as coco-caption hands them over.

    There `no.` is one token before a number, at the end of a caption also before the next caption's.
    """
    numbers_follow = [bool(_DIGIT.match(text)) for text in [*texts[1:], ""]] if texts else []
    return [
        _words(tokenise(f"{text}\n0")[:-1] if number_follows else tokenise(text))
        for text, number_follows in zip(texts, numbers_follow, strict=True)
    ]


def _words(tokens: Sequence[str]) -> str:
    return " ".join(token for token in tokens if token not in PUNCTUATION)


def tokenise(text: str) -> list[str]:
    """Penn Treebank tokens of `text` in lower case, quotes and brackets written as there (`` '' -lrb-)."""
    text = html.unescape(text).replace("\u00ad", "")
    tokens: list[str] = []
    position = 0
    while position < len(text):
        if match := _SPACE.match(text, position):
            position = match.end()
            continue
        # Longest match, the context a rule looks ahead to included; among equals the first rule.
        matches = [match for rule in _RULES if (match := rule.match(text, position))]
        if not matches:
            position += 1  # a symbol it does not know, such as an emoji, is dropped
            continue
        match = max(matches, key=lambda match: match.end())
        end = match.end(1)
        tokens.append(_written(text, position, end))
        position = end
    return tokens


def _written(text: str, start: int, end: int) -> str:
    """How a token is written: quotes by direction, brackets and dashes by name."""
    token = text[start:end]
    if token in _QUOTES:
        return _quote(text, start, end)
    if token in _NAMED:
        return _NAMED[token]
    if len(token) > 2 and set(token) in ({"."}, {"-"}):
        return token[: 3 if token[0] == "." else 2]
    for symbol, name in (("\u2019", "'"), ("\u2018", "'"), ("(", "-lrb-"), (")", "-rrb-")):
        token = token.replace(symbol, name)
    if _FRACTION.fullmatch(token):
        token = token.replace(" ", "\u00a0")
    return token.lower()


def _quote(text: str, start: int, end: int) -> str:
    token = text[start:end]
    if token in _DIRECTED:
        return _DIRECTED[token]
    after = text[end : end + 1]
    opens = bool(after) and after.isalnum()
    if token == '"':
        return "``" if opens else "''"
    return "`" if opens and (start == 0 or text[start - 1].isspace()) else "'"


_APOS = "['\u2019]"
_LETTER = r"(?:[^\W\d_]|[\u0300-\u036f\u064b-\u0652\u0900-\u0dff])"
_ALNUM = r"(?:[^\W_\u00b2\u00b3\u00b9\u00bc-\u00be]|[\u0300-\u036f\u064b-\u0652\u0900-\u0dff])"
_NUM = r"(?:\d*(?:[.:,]\d+)+|\d+)"
#: Words that keep a period after them: found by trying all of up to four letters, and WordNet's of up to nine.
_ANY_CASE = (
    "adj|adm|adv|al|ala|alex|apr|ariz|assn|asst|atty|aug|ave|bancorp|bhd|bldg|"
    "blvd|brig|bros|calif|capt|cf|cie|cmdr|co|col|colo|comdr|conn|corp|cos|cpl|ct"
    "|dak|dec|dept|det|dr|drs|elec|ens|esq|est|etc|ext|feb|fla|fri|ft|ga|gen|"
    "gov|govs|hon|inc|ind|insp|intl|invt|jan|jos|jr|jul|jun|kan|kans|ky|lieut|"
    "lt|ltd|maj|mar|md|messrs|mich|minn|mlle|mme|mo|mon|mont|mr|mrs|ms|msgr|mt"
    "|natl|neb|nev|nov|oct|okla|penn|pfc|ph|plc|pres|prof|pvt|rd|rep|reps|rev|"
    "rt|sen|sens|sep|sept|seq|sfc|sgt|spc|sq|sr|st|ste|supt|supts|sys|tel|tenn"
    "|thu|thurs|tue|tues|univ|va|vs|vt|wed|wis|wisc|wm|wyo"
)
_CAPITALISED = "Ark|ARK|Az|AZ|Del|DEL|Ill|ILL|La|LA|Mass|MASS|Miss|MISS|Ore|ORE|Pa|PA|Tex|TEX|Wash|WASH"
_NOT_IN_CAPITALS = "mfg|Mfg|mtg|Mtg|ppte|Ppte|ppty|Ppty|pte|Pte|ptes|Ptes|pty|Pty|ptys|Ptys"
_BEFORE_A_NUMBER = "art|ca|fig|figs|no|nos|op|pp|prop"


def _rules() -> tuple[re.Pattern[str], ...]:
    """In group 1 the token; what follows the group is context that counts for the longest match."""
    redaux = rf"{_APOS}(?:[msd]|re|ve|ll)"
    sources = [
        r"(</?[A-Za-z!?][^<>\r\n]*>)",
        # can't -> ca n't, they'll -> they 'll, cannot -> can not, gonna -> gon na
        rf"({_LETTER}+?)(?i:n['`\u2019]t)(?!{_ALNUM})",
        rf"({_LETTER}+)(?i:{redaux})(?!{_ALNUM})",
        r"(?i:(can)not\b)",
        r"(?i:(gon|wan)na\b)",
        r"(?i:(got)ta\b)",
        r"(?i:(lem|gim)me\b)",
        rf"(?i:({_APOS}t)(?:is|was)\b)",
        rf"(?i:(n['`\u2019]t)(?!{_ALNUM}))",
        rf"(?i:({redaux})(?!{_ALNUM}))",
        rf"({_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*)",
        rf"((?:[dDoOlL]{_APOS}{_ALNUM})?{_ALNUM}+(?:[-_](?:[dDoOlL]{_APOS}{_ALNUM})?{_ALNUM}+)*)",
        r"([A-Z]+(?:[+&][A-Z]+)+)",
        r"([A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2})",
        rf"((?i:[ldj]{_APOS}|dunkin{_APOS}|somethin{_APOS}|ol{_APOS}|{_APOS}em)(?!{_ALNUM}))",
        rf"((?i:{_APOS}n{_APOS}|{_APOS}n(?!{_ALNUM})))",
        rf"({_APOS}[2-9]0[sS])",
        rf"(?i:(y{_APOS}))(?:{_LETTER}+|$)",
        rf"({_LETTER}*[aeiouyAEIOUY]{_APOS}[aeiouA-Z]{_LETTER}*)",
        rf"([A-HJ-XZn]{_APOS}{_LETTER}{{3,}})",
        rf"(?i:(c{_APOS}mon|e{_APOS}er|s{_APOS}mores|ev{_APOS}ry|li{_APOS}l|nat{_APOS}l|nor{_APOS}easter|{_APOS}till?|{_APOS}cause))",
        rf"([-+]?{_NUM})",
        rf"(\d+(?:[.:,]\d+)*(?:-{_LETTER}+)+)",
        rf"({_LETTER}(?:\.{_LETTER})+\.(?:-{_ALNUM}+)+)",
        r"((?:\d{1,4}[- \u00a0])?\d{1,4}/\d{1,4})(?!\d)",
        r"(\d{1,2}[-/]\d{1,2}[-/]\d{2,4})",
        rf"({_LETTER}(?:\.{_LETTER})+\.?|(?i:ph\.d\.))",
        r"([A-Za-z]\.)",
        rf"((?i:{_ANY_CASE})\.)",
        rf"((?:{_CAPITALISED})\.)",
        rf"((?:{_NOT_IN_CAPITALS})\.)",
        rf"((?i:{_BEFORE_A_NUMBER})\.)(?=\s?\d|[,:;])",
        r"((?i:https?|ftp)://[^\s\"<>|()]+[^\s\"<>|.!?(){},-])",
        r"((?:(?i:www)\.(?:[^\s\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}|(?:[^\s\"`'<>|.!?(){},-]+\.)+(?i:com|net|org|edu))"
        r"(?:/[^\s\"<>|()]+[^\s\"<>|.!?(){},-])?)",
        r"([a-zA-Z0-9][^\s\"<>|(){}\u00a0]*@(?:[^\s\"<>|(){}.\u00a0]+\.)*[^\s\"<>|(){}\[\].,;:\u00a0]+)",
        r"([@#][A-Za-z_][A-Za-z_0-9]*)",
        r"([Cc](?:\+\+|#))",
        r"((?:US|HK|A|C|NT|S|NZ)\$|[$\u00a2\u00a3\u00a4\u00a5\u20ac])",
        r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])",
        r"(\.\.\.+|\u2026)",
        r"(-{2,}|[\u2013\u2014\u2015])",
        r"([?!]+)",
        r"(\*+|_+)",
        r"(''|``|[\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb])",
        r"([.,;:\-+=/%&@#^~|\\<>()\[\]{}])",
        r"([\u00a1-\u00ac\u00ae-\u00bf\u00d7\u00f7\u2010-\u2012\u2016\u2017\u2020-\u2027\u2030-\u2044\u2190-\u23ff\u2100-\u214f\u2500-\u27bf\u3001-\u303f\uff01-\uff0f])",
    ]  # fmt: skip
    return tuple(re.compile(source) for source in sources)


_RULES = _rules()
_DIGIT = re.compile(r"\d")
_SPACE = re.compile(r"[\s\u00a0\u200b\ufeff]+")
_FRACTION = re.compile(r"\d{1,4}[- ]\d{1,4}/\d{1,4}")
_QUOTES = frozenset({"''", "``", *"\"'`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"})
_DIRECTED = {
    "''": "''", "``": "``", "`": "`", "\u2018": "`", "\u201c": "``", "\u201d": "''", "\u00ab": "``", "\u00bb": "''",
    "\u201a": "\u201a", "\u201e": "\u201e",
}  # fmt: skip
_NAMED = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "\u2026": "...", "\u2013": "--",
    "\u2014": "--", "\u2015": "--", "\u20ac": "$", "\u00a3": "#", "\u00a2": "cents", "\u00bd": "1/2", "\u00bc": "1/4",
    "\u00be": "3/4",
}  # fmt: skip
