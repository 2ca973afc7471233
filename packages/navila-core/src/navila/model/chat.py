"""A conversation that goes on: what was shown in one turn is not encoded again in the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from navila.model.media import Content, MediaReader, Progress, Turn
from navila.model.settings import GenerationSettings

if TYPE_CHECKING:
    from navila.model.generation import ConversationalModel


class Chat:
    """Asks a model, and remembers what was said and shown::

    chat = Chat(model, max_new_tokens=200)
    print(chat.ask([Path("kitchen.jpg"), "What is on the table?"]))
    for piece in chat.stream("And what is under it?"):
        print(piece, end="", flush=True)
    """

    def __init__(
        self,
        model: ConversationalModel,
        *,
        num_video_frames: int | None = None,
        fps: float | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> None:
        """Start with nothing said.

        Args:
            model: a model with a conversation template.
            num_video_frames, fps: how videos are sampled (see `Video`).
            progress: told how many frames of how many are encoded.
            settings: as in `GenerationSettings`.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        self.model = model
        self.num_video_frames, self.fps = num_video_frames, fps
        self.progress = progress
        self.settings = GenerationSettings.of(settings)
        self.turns: tuple[Turn, ...] = ()

    def ask(self, content: Content) -> str:
        """The answer to a message.

        Raises:
            DataError: a part cannot be read, or the conversation has become longer than the model takes; it is then
                what it was before.
        """
        turns = self._with(content)
        answer = self.model.answers(self.model.inputs_of([turns], self.progress), self.settings)[0]
        self._keep(turns, answer)
        return answer

    def stream(self, content: Content) -> Iterator[str]:
        """The answer piece by piece; one that is left early counts as far as it was taken. Raises as `ask`."""
        turns = self._with(content)
        pieces = self.model.answer_pieces(self.model.inputs_of([turns], self.progress), self.settings)
        return self._following(turns, pieces)

    def _following(self, turns: tuple[Turn, ...], pieces: Iterator[str]) -> Iterator[str]:
        said = ""
        try:
            for piece in pieces:
                said += piece
                yield piece
        finally:
            pieces.close()  # pyright: ignore[reportAttributeAccessIssue]  a generator
            self._keep(turns, said)

    def reset(self) -> None:
        """Forget what was said and shown."""
        self.turns = ()

    def change(self, **settings: Any) -> None:
        """Change settings from the next answer on; raises ConfigError for those unknown or out of range."""
        GenerationSettings.known(settings)
        self.settings = replace(self.settings, **settings)

    def _with(self, content: Content) -> tuple[Turn, ...]:
        reader = MediaReader(self.model, num_video_frames=self.num_video_frames, fps=self.fps)
        return *self.turns, reader.turn("user", content)

    def _keep(self, turns: tuple[Turn, ...], answer: str) -> None:
        # Templates have no place for an empty answer: the question then stays out, too.
        if answer.strip():
            self.turns = *turns, MediaReader(self.model).turn("assistant", answer)
