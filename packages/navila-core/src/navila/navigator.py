"""From an instruction and camera images to actions: one history, one prompt, one cache for simulator, replay and robot.

A robot or a simulator drives it like this::

    nav = Navigator(model)
    nav.reset("Walk past the table and stop at the sofa.")
    image = camera()
    while True:
        action = nav.act(image)                       # a decision on what is seen now
        for number, primitive in enumerate(action.primitives):
            if number:
                nav.observe(image)                    # what was seen before each further primitive
            image = execute(primitive)                # 0 stop, 1 forward 25 cm, 2 left 15 deg, 3 right 15 deg
        if action.primitives[-1] == STOP:
            break

or, one primitive at a time, with the same history: ``image = execute(nav.step(image))``.

History is one frame per executed primitive, taken before it. A decision sees history + current frame, sampled to
`num_frames` by `navila.frames.sample_indices` and padded in front with black. `act` records the current frame after
deciding, so only the frames before the second and later primitives of an action go through `observe`.

A frame is encoded once, the beginning that a prompt shares with the last one is not read again, and an expected answer
is not generated token by token (`navila.model.decisions`). What is already known of the next decision can be computed
while the robot moves: ``nav.anticipate()`` after `act`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from navila.actions import LEGAL_ANSWERS, STOP_ANSWER, Action, Decoding, Profile, parse
from navila.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from navila.conversation import Template
from navila.errors import ConfigError, DataError
from navila.frames import sample_indices
from navila.model.decisions import AnswerTree, Element, Memory, Question, can_decide, greedy_answers, read_ahead
from navila.model.generation import padded_left
from navila.model.media import Frame, encode
from navila.prompts import navigation_prompt, normalise_instruction
from navila.tokenization import tokenize_supervised

if TYPE_CHECKING:
    from navila.model import NavilaForCausalLM

#: An RGB image: PIL, or (H, W, 3) uint8.
ImageLike = Image.Image | NDArray[np.uint8]
#: Side of the black padding images in pixels, as the original trainer has it.
PADDING_SIZE = 512


class Navigator:
    """Decides what to do next from an instruction and the frames seen so far."""

    def __init__(
        self,
        model: NavilaForCausalLM,
        num_frames: int | None = None,
        *,
        decoding: Decoding = "free",
        normalise: bool = False,
        on_unparsed: Literal["forward", "stop", "repeat"] = "forward",
        parse_profile: Profile = "lenient",
        max_new_tokens: int = 32,
    ) -> None:
        """Bind to a model; call `reset` before the first `act`.

        Args:
            num_frames: frames a decision sees; what the model was trained with when None.
            decoding: `free` is greedy over the whole vocabulary, as published; `grammar` is greedy over the ten answers
                of the training data, so that every answer is an action.
            normalise: apply the training clean-up to the instruction; the published figures use it raw.
            on_unparsed: what an answer that names no action becomes: a step forward, a stop, or the last action again.
            parse_profile: `lenient` reads answers as the original does, `strict` accepts only the action grammar.
        """
        frames = model.config.num_video_frames if num_frames is None else num_frames
        if not isinstance(frames, int) or frames < 1:
            raise ConfigError(f"num_frames must be at least 1, got {frames!r}: pass Navigator(model, num_frames=8).")
        if model.template is None:
            raise ConfigError("The model names no conversation template: load it with navila.load(..., template=NAME).")
        if decoding not in get_args(Decoding):
            raise ConfigError(f"decoding must be 'free' or 'grammar', got {decoding!r}.")
        if on_unparsed not in ("forward", "stop", "repeat"):
            raise ConfigError(f"on_unparsed must be 'forward', 'stop' or 'repeat', got {on_unparsed!r}.")
        self.model = model
        self.num_frames = frames
        self.template: Template = model.template
        self.decoding = decoding
        self.normalise = normalise
        self.on_unparsed = on_unparsed
        self.parse_profile: Profile = parse_profile
        self.max_new_tokens = max_new_tokens
        self._padding = Frame(Image.new("RGB", (PADDING_SIZE, PADDING_SIZE)))
        self._prompt_ids: list[int] | None = None
        self._answers = self._legal_answers()
        self._tree = AnswerTree.of(self._answers)
        self._memory = Memory()
        self._clear()

    def _clear(self) -> None:
        self._history: list[Frame] = []
        self._pending: deque[int] = deque()
        self._last: Action | None = None
        self._memory.clear()
        self.n_decisions = 0
        self.n_unparsed = 0

    def reset(self, instruction: str) -> None:
        """Start a new task: forget the history, pending primitives and counters, and read the instruction.

        Raises:
            DataError: the instruction makes the prompt longer than the model takes, or is no text.
        """
        self._clear()
        try:
            instruction.encode()
        except UnicodeEncodeError:
            # What a shell or JSON made of bytes that are not UTF-8; tokenizers know no words for it.
            raise DataError(f"The instruction {instruction!r:.60} is no valid text: write it in UTF-8.") from None
        self.instruction = instruction
        text = normalise_instruction(instruction) if self.normalise else instruction
        message = navigation_prompt(text, self.num_frames, tokenizer=self.model.tokenizer)
        self.prompt = self.template.render([("user", message), ("assistant", None)])
        self._prompt_ids = self.model.prompt_ids(self.prompt)

    @property
    def history_length(self) -> int:
        """Frames recorded so far: one per executed primitive."""
        return len(self._history)

    def act(self, image: ImageLike) -> Action:
        """Decide on the current image; record it as the frame before the action's first primitive.

        Raises:
            ConfigError: `reset` was not called, or the image is not RGB.
        """
        return act_batch([self], [image])[0]

    def observe(self, image: ImageLike) -> None:
        """Record the image seen before a primitive that needs no decision: the second and later ones of an action."""
        self._history.append(Frame(_as_pil(image)))

    def step(self, image: ImageLike) -> int:
        """The next primitive for the current image: a pending one of the last action, or the first of a new one."""
        if self._pending:
            self.observe(image)
        else:
            self._pending.extend(self.act(image).primitives)
        return self._pending.popleft()

    def anticipate(self, frames: int | None = None) -> None:
        """Compute what is already known of the next decision; to be called while the last action is executed.

        Which frames it will see is known as soon as the action is, and all but the latest have been seen: they are
        encoded, and the prompt is read up to there. Changes no answer. Does nothing before the first decision, nor for
        models that remember nothing (`navila.model.decisions.can_decide`).

        Args:
            frames: recorded between the last decision and the next, the last decision's own included; one a primitive
                of its action when None.
        """
        if self._prompt_ids is None or self._last is None or not can_decide(self.model):
            return
        seen = len(self._history)
        recorded = self._decided_at + (len(self._last.primitives) if frames is None else frames)
        indices = sample_indices(max(recorded, seen) + 1, self.num_frames)
        known = [self._padding if i < 0 else self._history[i] for i in indices if i < seen]
        read_ahead(self.model, self._elements(known), self._memory)

    def _elements(self, frames: Sequence[Frame]) -> tuple[Element, ...]:
        """The prompt with these frames, up to where the next one would go."""
        assert self._prompt_ids is not None
        left = iter(frames)
        elements: list[Element] = []
        for token in self._prompt_ids:
            element = next(left, None) if token == IMAGE_TOKEN_INDEX else token
            if element is None:
                break
            elements.append(element)
        return tuple(elements)

    def _legal_answers(self) -> list[list[int]]:
        """Token ids of the ten answers as training supervised them, the end of the turn included."""
        answers = []
        for answer in LEGAL_ANSWERS:
            spans = self.template.spans([("user", "Go."), ("assistant", answer)])
            _, labels = tokenize_supervised(spans, self.model.tokenizer, self.model.image_ids)
            answers.append([label for label in labels if label != IGNORE_INDEX])
        return answers

    def _sampled(self, current: Frame) -> list[Frame]:
        frames = [*self._history, current]
        return [self._padding if i < 0 else frames[i] for i in sample_indices(len(frames), self.num_frames)]

    def _decide(self, text: str, current: Frame) -> Action:
        action = parse(text, self.parse_profile)
        self.n_decisions += 1
        if action.status == "unparsed":
            self.n_unparsed += 1
            # What was read is one step forward already.
            if self.on_unparsed == "repeat" and self._last is not None:
                action = replace(self._last, text=action.text, status=action.status)
            elif self.on_unparsed == "stop":
                action = replace(parse(STOP_ANSWER), text=action.text, status=action.status)
        self._last = action
        self._decided_at = len(self._history)
        self._history.append(current)
        return action


def act_batch(navigators: Sequence[Navigator], images: Sequence[ImageLike]) -> list[Action]:
    """Decide for several navigators of one model at once: one encoding and one generation for all.

    A frame is encoded the first time a decision samples it, never again. Answers equal those of separate `act` calls up
    to the model's rounding in batches.

    Raises:
        ConfigError: the navigators have different models, one was not `reset`, or an image is not RGB.
    """
    if len(navigators) != len(images):
        raise ConfigError(f"act_batch needs one image a navigator, got {len(images)} for {len(navigators)}.")
    if not navigators:
        return []
    model = navigators[0].model
    prompts: list[list[int]] = []
    for navigator in navigators:
        if navigator._prompt_ids is None:
            raise ConfigError("The navigator has no instruction yet: call reset(instruction) before act.")
        if navigator.model is not model:
            raise ConfigError("act_batch needs navigators of one model: group them by model.")
        prompts.append(navigator._prompt_ids)
    current = [Frame(_as_pil(image)) for image in images]
    _share_padding(navigators)
    sampled = [navigator._sampled(now) for navigator, now in zip(navigators, current, strict=True)]
    answers = _decided(navigators, sampled) if can_decide(model) else _generated(navigators, prompts, sampled)
    texts = model.tokenizer.batch_decode(answers, skip_special_tokens=True)
    return [
        navigator._decide(_without_stop(text, navigator.template), now)
        for navigator, text, now in zip(navigators, texts, current, strict=True)
    ]


def _share_padding(navigators: Sequence[Navigator]) -> None:
    """Let all navigators hold the same padding frame, an encoded one if there is any."""
    padding = next((n._padding for n in navigators if n._padding.features is not None), navigators[0]._padding)
    for navigator in navigators:
        navigator._padding = padding


def _decided(navigators: Sequence[Navigator], sampled: Sequence[Sequence[Frame]]) -> list[list[int]]:
    """Token ids of greedy answers to the navigators' prompts with these frames."""
    questions = [
        Question(
            prompt=navigator._elements(frames),
            bound=navigator.decoding == "grammar",
            max_new_tokens=navigator.max_new_tokens,
            memory=navigator._memory,
        )
        for navigator, frames in zip(navigators, sampled, strict=True)
    ]
    return greedy_answers(navigators[0].model, questions, navigators[0]._tree)


@torch.inference_mode()
def _generated(
    navigators: Sequence[Navigator], prompts: Sequence[list[int]], sampled: Sequence[Sequence[Frame]]
) -> list[list[int]]:
    """The same by `generate` of transformers, for attentions that take no masks and for layers with a window."""
    model = navigators[0].model
    features, index = encode(model, [frame for frames in sampled for frame in frames])
    input_ids, attention_mask = padded_left(prompts, model.pad_id())
    options: dict[str, Any] = {}
    grammars = [navigator._answers if navigator.decoding == "grammar" else None for navigator in navigators]
    if any(grammar is not None for grammar in grammars):
        options["prefix_allowed_tokens_fn"] = _allowed_next(grammars, len(model.tokenizer), model.stop_ids())
    ids = model.generate(
        input_ids=input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        image_features=features,
        image_index=index,
        max_new_tokens=max(navigator.max_new_tokens for navigator in navigators),
        do_sample=False,
        **options,
    )
    return ids.tolist()


def _allowed_next(
    grammars: Sequence[Sequence[list[int]] | None], vocabulary: int, stops: list[int]
) -> Callable[[int, torch.Tensor], list[int]]:
    """Ids that may follow what a row has said so far; everything for rows without a grammar."""

    def allowed(row: int, said: torch.Tensor) -> list[int]:
        answers = grammars[row]
        if answers is None:
            return list(range(vocabulary))
        prefix = said.tolist()
        nexts = {ids[len(prefix)] for ids in answers if len(ids) > len(prefix) and ids[: len(prefix)] == prefix}
        return sorted(nexts) or stops

    return allowed


def _without_stop(text: str, template: Template) -> str:
    """The answer without white space around it and without a stop string that is no special token."""
    text = text.strip()
    for stop in template.stop_strings:
        text = text.removesuffix(stop).strip()
    return text


def _as_pil(image: ImageLike) -> Image.Image:
    """A copy as RGB: simulators and cameras may write the next image into the same buffer."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ConfigError(
            f"An image must be PIL or a uint8 array (H, W, 3), got {array.dtype} {array.shape}: convert it before act."
        )
    return Image.fromarray(array.copy())
