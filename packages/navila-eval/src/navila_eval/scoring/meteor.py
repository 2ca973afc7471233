"""METEOR 1.5 by its authors' Java program, where that is installed (Denkowski and Lavie, 2014).

Its stems, synonyms and table of paraphrases are part of the measure, so nothing else gives the published figures:
without Java or the program the metric is missing (n/a), never 0.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from navila.errors import DataError

#: Environment variable that names `meteor-1.5.jar`; its `data` folder lies beside it.
JAR_VARIABLE = "NAVILA_METEOR_JAR"
#: What is said where METEOR is missing.
HOW_TO_GET = (
    "METEOR needs a Java runtime and meteor-1.5.jar: install Java and run `pip install pycocoevalcap`, or set "
    f"{JAR_VARIABLE} to the jar of METEOR 1.5."
)


def find_meteor() -> Meteor | None:
    """The METEOR program of this machine: `NAVILA_METEOR_JAR`'s, or the one pycocoevalcap brings; None without."""
    java = shutil.which("java")
    if java is None:
        return None
    if named := os.environ.get(JAR_VARIABLE):
        jar = Path(named)
    else:
        package = importlib.util.find_spec("pycocoevalcap")
        folders = package.submodule_search_locations if package else None
        jar = Path(next(iter(folders or ()), "")) / "meteor" / "meteor-1.5.jar"
    return Meteor(java=Path(java), jar=jar) if jar.is_file() else None


@dataclass(frozen=True, kw_only=True)
class Meteor:
    """METEOR 1.5 for English, text normalised by the program itself (`-l en -norm`), as coco-caption calls it."""

    java: Path
    jar: Path

    def score(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """METEOR of the corpus (from summed statistics, not a mean) and of each sample, 0 … 1.

        Raises:
            DataError: the program fails.
        """
        command = [str(self.java), "-jar", "-Xmx2G", self.jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
        with subprocess.Popen(
            command,
            cwd=self.jar.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        ) as process:
            stdin, stdout = process.stdin, process.stdout
            assert stdin is not None
            assert stdout is not None

            def answer(line: str = "") -> str:
                """Its next line, said to `line` if one is given."""
                with suppress(BrokenPipeError):
                    stdin.write(line)
                    stdin.flush()
                if said := stdout.readline().strip():
                    return said
                with suppress(BrokenPipeError):  # what could not be written
                    stdin.close()
                process.kill()
                raise DataError(f"METEOR stopped: run `java -jar {self.jar}` to see what it lacks.")

            # Every line is answered by one, and EVAL by one for each sample and one for all.
            statistics = [
                answer(_line("SCORE", *texts, text)) for text, texts in zip(predictions, references, strict=True)
            ]
            values = [float(answer(" ||| ".join(["EVAL", *statistics]) + "\n"))]
            values += [float(answer()) for _ in statistics]
        return values[-1], values[:-1]


def _line(*texts: str) -> str:
    """A line of the protocol, whose fields are divided by `|||`."""
    return " ||| ".join(" ".join(text.replace("|||", "").split()) for text in texts) + "\n"
