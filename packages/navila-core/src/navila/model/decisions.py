"""Greedy answers to prompts that change little, from models that mostly give one of a few answers.

Two things are saved, neither of which changes an answer:

- The beginning that a prompt shares with the one before it (`Memory`) does not go through the language model again.
- The expected answers are guessed as a tree (`AnswerTree`), and one pass tells what follows each of its nodes. While
  the likeliest token is in the tree, it costs nothing more: an expected answer takes two passes, not one a token. Where
  it is not, the answer goes on token by token from there. This is speculative decoding with a draft that costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from navila.constants import IMAGE_TOKEN_INDEX
from navila.model.branches import as_attention_mask
from navila.model.generation import ConversationalModel, padded_left
from navila.model.media import Frame, encode
from navila.model.packed_attention import rows_of_one

#: A prompt as a list of token ids and of frames where these go.
Element = int | Frame

#: Where an answer begins in a tree.
ROOT = -1


@dataclass(frozen=True, kw_only=True)
class AnswerTree:
    """Token ids of several answers; a beginning that some of them share is in it once."""

    tokens: tuple[int, ...]
    """(N,) token of each node that others follow, after the node it follows."""
    parents: tuple[int, ...]
    """(N,) node that each node follows, or `ROOT`."""
    children: tuple[dict[int, int | None], ...]
    """(N + 1,) node, by token, of what follows each node, the root being the last; None where an answer ends."""

    @classmethod
    def of(cls, answers: Iterable[Sequence[int]]) -> Self:
        """The tree of these answers, their ends included."""
        tokens: list[int] = []
        parents: list[int] = []
        children: list[dict[int, int | None]] = []
        root: dict[int, int | None] = {}
        for answer in answers:
            node, following = ROOT, root
            for token in answer[:-1]:
                child = following.get(token)
                if child is None:
                    child = following[token] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                    children.append({})
                node, following = child, children[child]
            following.setdefault(answer[-1], None)
        return cls(tokens=tuple(tokens), parents=tuple(parents), children=(*children, root))

    @cached_property
    def paths(self) -> Tensor:
        """(N, N) bool: which nodes lie on the way to each node, itself included."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent != ROOT:
                seen[node] |= seen[parent]
        return seen


@dataclass(eq=False)
class Memory:
    """A prompt and what the language model made of it: keys and values (1, H, L, C) of each layer."""

    prompt: tuple[Element, ...] = ()
    layers: tuple[tuple[Tensor, Tensor], ...] = ()

    def common(self, prompt: Sequence[Element]) -> int:
        """How many elements of a prompt need not be looked at again; the last one has to."""
        count = 0
        for old, new in zip(self.prompt, prompt[:-1], strict=False):
            if old != new:
                break
            count += 1
        return count

    def clear(self) -> None:
        """Forget everything."""
        self.prompt, self.layers = (), ()


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to answer, and how."""

    prompt: tuple[Element, ...]
    bound: bool
    """Whether only answers of the tree may be given: at each node the likeliest of what follows it there."""
    max_new_tokens: int
    memory: Memory
    """Of the question before this one; becomes this one's."""


def can_decide(model: ConversationalModel) -> bool:
    """Whether a model's attention takes the masks this needs, and its cache keeps every token at its place."""
    with rows_of_one(model.llm):
        if str(model.llm.config._attn_implementation) not in ("sdpa", "eager"):
            return False
    # Frequencies that depend on a sequence's length would make keys that were kept wrong.
    rope = getattr(model.llm.config, "rope_parameters", None) or {}
    kinds = {one.get("rope_type") for one in (rope, *rope.values()) if isinstance(one, dict)}
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.llm.config).layers)
    return plain and not kinds & {"dynamic", "longrope"}


@torch.inference_mode()
def greedy_answers(model: ConversationalModel, questions: Sequence[Question], tree: AnswerTree) -> list[list[int]]:
    """Token ids of the answers, the one that ends each included; what `model.generate` gives without sampling.

    Equal up to rounding: a batch, a guess and a memory add up in another order.
    """
    stops = set(model.stop_ids())
    with rows_of_one(model.llm):
        rows = _Rows(model)
        following = rows.read([question.prompt for question in questions], [question.memory for question in questions])
        answers = _along(tree, rows, questions, following, stops)
        while True:
            going = [
                not question.bound and len(answer) < question.max_new_tokens and answer[-1] not in stops
                for question, answer in zip(questions, answers, strict=True)
            ]
            if not any(going):
                return answers
            likeliest = rows.say([answer[-1] for answer in answers]).argmax(1).tolist()
            for answer, token, goes in zip(answers, likeliest, going, strict=True):
                if goes:
                    answer.append(token)


def _along(
    tree: AnswerTree, rows: _Rows, questions: Sequence[Question], following: Tensor, stops: set[int]
) -> list[list[int]]:
    """Answers as far as the tree goes, and a token beyond, from the logits (B, V) of what follows each prompt."""
    first = following.argmax(1).tolist()
    logits = following[:, None]
    if any(question.bound or token in tree.children[ROOT] for question, token in zip(questions, first, strict=True)):
        # The root is the last row of the logits, as it is the last of the tree's children.
        logits = torch.cat([rows.guess(tree), logits], 1)
    likeliest = logits.argmax(2).tolist()
    answers: list[list[int]] = []
    for row, question in enumerate(questions):
        answer: list[int] = []
        node: int | None = ROOT
        while node is not None and len(answer) < question.max_new_tokens:
            children = tree.children[node]
            token = likeliest[row][node]
            if question.bound:
                options = list(children)
                token = options[int(logits[row, node, options].argmax())]
            answer.append(token)
            node = None if token in stops else children.get(token)
            if node is not None:
                rows.accept(row, node - len(tree.tokens))
        answers.append(answer)
    return answers


@torch.inference_mode()
def read_ahead(model: ConversationalModel, prompt: Sequence[Element], memory: Memory) -> None:
    """Let the language model read a prompt's beginning, for the question that will go on from there."""
    if memory.prompt[: len(prompt)] != tuple(prompt):
        with rows_of_one(model.llm):
            _Rows(model).read([tuple(prompt)], [memory])


class _Rows:
    """Rows of different lengths in one cache: a place in it may be empty, so every token is told its position."""

    def __init__(self, model: ConversationalModel) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.llm.config)
        self.filled = torch.zeros(0, 0, dtype=torch.bool)
        """(B, K): which places hold a token."""

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens in each row."""
        return self.filled.sum(1)

    def read(self, prompts: Sequence[tuple[Element, ...]], memories: Sequence[Memory]) -> Tensor:
        """Put prompts into the empty cache, using and renewing the memories: logits (B, V) of what follows each."""
        model, device = self.model, self.model.device
        common = [memory.common(prompt) for prompt, memory in zip(prompts, memories, strict=True)]
        known = [self._width(prompt[:count]) for prompt, count in zip(prompts, common, strict=True)]
        self._recall(memories, known)
        rest = [prompt[count:] for prompt, count in zip(prompts, common, strict=True)]
        tokens = [[IMAGE_TOKEN_INDEX if isinstance(one, Frame) else one for one in elements] for elements in rest]
        ids, real = padded_left(tokens, model.pad_id())
        shown = [element for elements in rest for element in elements if isinstance(element, Frame)]
        features, index = encode(model, shown) if shown else (None, None)
        batch = model.embed(
            ids.to(device),
            attention_mask=real.to(device),
            image_features=features,
            image_index=index,
            padding_side="left",
        )
        mask = torch.cat([self.filled, batch.attention_mask], 1)
        positions = batch.position_ids + self.lengths[:, None]
        logits = self._forward(
            # Without empty places the fast kernels need no mask.
            None if bool(mask.all()) else mask,
            positions,
            inputs_embeds=batch.inputs_embeds,
            logits_to_keep=1,
        )
        self.filled = mask
        for row, (prompt, memory) in enumerate(zip(prompts, memories, strict=True)):
            memory.prompt, memory.layers = prompt, self._row(row)
        return logits[:, -1]

    def guess(self, tree: AnswerTree) -> Tensor:
        """Logits (B, N, V) of what follows each node of a tree, were it said; the nodes' places stay empty."""
        batch, nodes = len(self.filled), len(tree.tokens)
        paths = tree.paths.to(self.filled.device)
        visible = torch.cat([self.filled[:, None].expand(-1, nodes, -1), paths.expand(batch, -1, -1)], 2)
        logits = self._forward(
            as_attention_mask(self.model.llm.config, visible[:, None], self.model.llm.dtype),
            self.lengths[:, None] + paths.sum(1) - 1,
            input_ids=torch.tensor(tree.tokens, device=self.filled.device).expand(batch, -1),
        )
        self.filled = torch.cat([self.filled, self.filled.new_zeros(batch, nodes)], 1)
        return logits

    def accept(self, row: int, place: int) -> None:
        """Let a place of a row that was only guessed count as said."""
        self.filled[row, place] = True

    def say(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row: logits (B, V) of what follows."""
        positions = self.lengths[:, None]
        self.filled = torch.cat([self.filled, self.filled.new_ones(len(tokens), 1)], 1)
        ids = torch.tensor(tokens, device=self.filled.device)[:, None]
        return self._forward(self.filled, positions, input_ids=ids)[:, -1]

    def _forward(self, attention_mask: Tensor | None, positions: Tensor, **inputs: Any) -> Tensor:
        output = self.model.llm(
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **inputs,
        )
        return output.logits

    def _width(self, elements: Sequence[Element]) -> int:
        """Positions that elements of a prompt take."""
        return sum(self.model.tokens_per_image if isinstance(element, Frame) else 1 for element in elements)

    def _recall(self, memories: Sequence[Memory], known: Sequence[int]) -> None:
        """Begin each row with so many positions of its memory, those of shorter ones on the right."""
        longest = max(known)
        places = torch.arange(longest, device=self.model.device)
        self.filled = places >= longest - torch.tensor(known, device=self.model.device)[:, None]
        if not longest:
            return
        example = next(memory for memory, count in zip(memories, known, strict=True) if count)
        for layer, pair in enumerate(example.layers):
            whole = [one.new_zeros(len(known), one.shape[1], longest, one.shape[3]) for one in pair]
            for row, (memory, count) in enumerate(zip(memories, known, strict=True)):
                if count:
                    for kept, old in zip(whole, memory.layers[layer], strict=True):
                        kept[row, :, longest - count :] = old[0, :, :count]
            self.cache.update(whole[0], whole[1], layer)

    def _row(self, row: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """Keys and values of a row without its empty places."""
        kept: list[tuple[Tensor, Tensor]] = []
        # Once for all layers: counting them waits for the GPU.
        places = self.filled[row].nonzero().squeeze(1)
        for layer in self.cache.layers:
            assert isinstance(layer, DynamicLayer)
            keys, values = layer.keys, layer.values
            assert keys is not None
            assert values is not None
            if len(self.filled) > 1:
                here = places.to(keys.device)
                keys, values = (one[row : row + 1].index_select(2, here) for one in (keys, values))
            kept.append((keys, values))
        return tuple(kept)
