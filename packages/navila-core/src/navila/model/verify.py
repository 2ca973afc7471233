"""Compute a golden's stages again and place the first that differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from navila.constants import IMAGE_TOKEN_INDEX
from navila.errors import DataError, NavilaError, reason
from navila.model import stages
from navila.model.golden import Case, Golden

if TYPE_CHECKING:
    from navila.model.modeling import NavilaForCausalLM

#: Largest absolute difference by the coarser of the two dtypes, the golden's and the model's.
TOLERANCES = {"float32": 1e-4, "float16": 0.1, "bfloat16": 0.5}
_AXES = {
    "pixel_values": ("image", "channel", "row", "column"),
    "encoder": ("image", "patch", "channel"),
    "projector": ("image", "token", "channel"),
    "embeddings": ("position", "channel"),
    "logits": ("position", "id"),
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One stage of one case."""

    stage: str
    case: str
    equal: bool
    detail: str = ""
    """Where it differs and by how much; or why a difference does not count."""
    largest: float | None = None
    """Largest absolute difference, of tensors."""


def tolerance(golden_dtype: str, model_dtype: str) -> float:
    """What is expected of two computations in these dtypes."""
    return max(TOLERANCES.get(golden_dtype, 0.0), TOLERANCES.get(model_dtype, 0.0)) or TOLERANCES["float32"]


def verify(
    model: NavilaForCausalLM, golden: Golden, *, atol: float, report: Callable[[str], None] = lambda _line: None
) -> list[Comparison]:
    """Every recorded stage of every case, computed again.

    A stage works on what the stages before it gave; where one of those differs, on what is recorded of it, so that a
    fault shows where it is and not in all that follows. Prompts, ids and pixels must be equal, tensors within `atol`.
    The answer is computed from the ids and the projected features, and may leave the recorded one where the two
    likeliest tokens were no further apart than the tolerance of both.

    Raises:
        DataError: the golden holds nothing that could be compared.
    """
    found: list[Comparison] = []
    for case in golden.cases:
        report(f"Comparing {case.name} …")
        with stages.exact():
            found += _Run(model, case, atol).comparisons()
    if not found:
        raise DataError("The golden holds no stage that could be compared: give another one.")
    return found


def first_difference(comparisons: Sequence[Comparison]) -> Comparison | None:
    """The earliest stage that differs, in the first case that shows it; None when all are equal."""
    wrong = [c for c in comparisons if not c.equal]
    return min(wrong, key=lambda c: stages.STAGES.index(c.stage)) if wrong else None


class _Run:
    """One case, stage by stage."""

    def __init__(self, model: NavilaForCausalLM, case: Case, atol: float) -> None:
        self.model, self.case, self.atol = model, case, atol
        self.found: list[Comparison] = []

    def comparisons(self) -> list[Comparison]:
        """Those of the stages that are recorded."""
        model, case = self.model, self.case
        prompt = case.prompt
        if case.messages is not None:
            messages = case.messages
            prompt = self.stage("prompt", lambda: stages.prompt(model, messages), self.text)
        ids: Any = case.input_ids
        if prompt is not None:
            ids = self.stage("input_ids", lambda: stages.input_ids(model, prompt), self.ids)
        projected = None
        if case.images:
            pixels = self.stage("pixel_values", lambda: stages.pixel_values(model, case.images), self.tensor)
            features = self.stage("encoder", lambda: stages.encoder(model, pixels), self.tensor)
            projected = self.stage("projector", lambda: stages.projector(model, features), self.tensor)
        embedded: Any = self.stage("embeddings", lambda: stages.embeddings(model, ids, projected), self.tensor)
        if embedded is not None and case.logits_positions:
            positions = [p for p in case.logits_positions if p < len(embedded)]
            self.stage("logits", lambda: stages.logits(model, embedded, positions), self.tensor)
        if case.greedy_ids is not None:
            new_tokens = case.max_new_tokens
            self.stage("greedy_ids", lambda: stages.greedy_ids(model, ids, projected, new_tokens)[0], self.answer)
        return self.found

    def stage(self, name: str, compute: Callable[[], Any], compare: Callable[[str, Any, Any], Comparison]) -> Any:
        """Compute a stage, compare it with what is recorded, and give what the next stage works on."""
        recorded = self.case.recorded(name)
        try:
            computed = compute()
        except (NavilaError, RuntimeError, IndexError, TypeError) as error:
            # torch's own words where the model does not take what is recorded, e.g. ids beyond its vocabulary.
            self.found.append(self.differs(name, f"it cannot be computed ({reason(error)})"))
            return recorded
        if recorded is None:
            return computed
        comparison = compare(name, recorded, computed)
        self.found.append(comparison)
        return computed if comparison.equal or not _fits(recorded, computed) else recorded

    def equals(self, stage: str, detail: str = "", largest: float | None = None) -> Comparison:
        return Comparison(stage=stage, case=self.case.name, equal=True, detail=detail, largest=largest)

    def differs(self, stage: str, detail: str, largest: float | None = None) -> Comparison:
        return Comparison(stage=stage, case=self.case.name, equal=False, detail=detail, largest=largest)

    def text(self, stage: str, recorded: str, computed: str) -> Comparison:
        """Equal bytes, or where the first differs."""
        old, new = recorded.encode(), computed.encode()
        if old == new:
            return self.equals(stage)
        at = _first(old, new)
        return self.differs(stage, f"byte {at}: recorded {_around(old, at)}, now {_around(new, at)}")

    def ids(self, stage: str, recorded: Sequence[int], computed: Sequence[int]) -> Comparison:
        """Equal ids, or where the first differs."""
        if list(recorded) == list(computed):
            return self.equals(stage)
        at = _first(recorded, computed)
        what = f"token {at}: recorded {self.token(recorded, at)}, now {self.token(computed, at)}"
        behind = f", behind {self.spelled(recorded[max(at - 4, 0) : at])!r}" if at else ""
        return self.differs(stage, f"{what}{behind}")

    def answer(self, stage: str, recorded: Sequence[int], computed: Sequence[int]) -> Comparison:
        """Equal ids, or different ones from a step on at which the lead was within the tolerance."""
        comparison = self.ids(stage, recorded, computed)
        if comparison.equal:
            return comparison
        at = _first(recorded, computed)
        margins = self.case.margins
        if at < min(len(margins), len(recorded), len(computed)) and margins[at] <= 2 * self.atol:
            lead = f"the likeliest led by {margins[at]:.2g} only"
            return self.equals(stage, f"{comparison.detail}; a tie, as {lead}")
        return comparison

    def tensor(self, stage: str, recorded: Tensor, computed: Tensor) -> Comparison:
        """Equal within the tolerance, pixels bit for bit; or where the largest difference is."""
        old, new = recorded.detach().float().cpu(), computed.detach().float().cpu()
        if old.shape != new.shape:
            return self.differs(stage, f"shape {tuple(new.shape)} where {tuple(old.shape)} is recorded")
        if old.numel() == 0:
            return self.equals(stage, largest=0.0)
        difference = (old - new).abs()
        # Equal infinities differ by nan; so does anything from nan, which is a difference unless both are.
        difference[(old == new) | (old.isnan() & new.isnan())] = 0
        difference[difference.isnan()] = torch.inf
        largest = float(difference.max())
        if largest <= (0 if stage == "pixel_values" else self.atol):
            return self.equals(stage, largest=largest)
        at = [int(i) for i in torch.unravel_index(difference.argmax(), old.shape)]
        was, now = float(old[tuple(at)]), float(new[tuple(at)])
        if stage == "logits":
            at[0] = self.case.logits_positions[at[0]]
        place = ", ".join(f"{axis} {index}" for axis, index in zip(_AXES[stage], at, strict=True))
        return self.differs(stage, f"by {largest:.3g} at {place}: recorded {was:.6g}, now {now:.6g}", largest)

    def token(self, ids: Sequence[int], at: int) -> str:
        """An id and its text."""
        return f"{ids[at]} {self.spelled(ids[at : at + 1])!r}" if at < len(ids) else "the end"

    def spelled(self, ids: Sequence[int]) -> str:
        """What ids say."""
        words = self.model.tokenizer.convert_ids_to_tokens([i for i in ids if i >= 0])
        text = iter(word or "" for word in words)
        return "".join("<image>" if i == IMAGE_TOKEN_INDEX else next(text) for i in ids)


def _fits(recorded: Any, computed: Any) -> bool:
    """Whether the next stage can work on what is recorded: a tensor of another shape is of another model."""
    return not isinstance(recorded, Tensor) or recorded.shape == computed.shape


def _first(one: Sequence[int], other: Sequence[int]) -> int:
    """Where two different sequences part."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _around(text: bytes, at: int) -> str:
    """Some text around a byte."""
    return repr(text[max(at - 12, 0) : at + 24].decode(errors="replace"))
