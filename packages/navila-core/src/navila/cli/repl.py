"""The session of `navila chat`: lines are questions, lines that begin with / are commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from navila.cli.asking import answer
from navila.errors import ConfigError, NavilaError
from navila.files import write_atomically

if TYPE_CHECKING:
    from navila.model.chat import Chat
    from navila.model.media import Part

_HELP = """\
A line is a question; what was said and shown before is remembered. Ctrl-C stops an answer, Ctrl-D leaves.

/image FILE                show an image with the next question
/video FILE                show a video, or a folder of frames, with the next question
/settings [NAME=VALUE …]   show or change the settings of answers and of videos
/save FILE                 write the conversation as JSON
/reset                     forget what was said and shown
/help                      this text
/quit                      leave"""


class Repl:
    """Reads lines until the end of the input or /quit; a mistake costs a line, not the session."""

    def __init__(self, chat: Chat, *, name: str, media: Sequence[Part] = (), shown: Sequence[Path] = ()) -> None:
        """A session with `chat`; `name` is what /save calls the model, `media` what the first question shows.

        `shown` are the paths of `media`.
        """
        self.chat, self.name = chat, name
        self.media: list[Part] = list(media)
        self.shown: list[str] = [str(path) for path in shown]
        self.log: list[dict[str, Any]] = []
        self.commands: dict[str, Callable[[str], None]] = {
            "/image": self.show_image,
            "/video": self.show_video,
            "/settings": self.change_settings,
            "/save": self.save,
            "/reset": self.reset,
            "/help": lambda _: click.echo(_HELP),
        }

    def run(self) -> None:
        """Talk."""
        self._complete_lines()
        click.echo("A line is a question; /help tells the commands, Ctrl-D leaves.")
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo("\nCtrl-D or /quit leaves.")
                continue
            if line == "/quit":
                return
            try:
                self._heed(line)
            except NavilaError as error:
                click.echo(f"Error: {error}", err=True)
            except OSError as error:
                click.echo(f"Error: {error.filename or 'A file'} cannot be used ({error.strerror}).", err=True)
            except KeyboardInterrupt:
                click.echo("\nStopped.")

    def _heed(self, line: str) -> None:
        if not line.startswith("/"):
            if line:
                self.ask(line)
            return
        command, _, rest = line.partition(" ")
        if command not in self.commands:
            raise ConfigError(f"There is no command {command}: use {', '.join(self.commands)} or /quit.")
        self.commands[command](rest.strip())

    def ask(self, question: str) -> None:
        """Show what is waiting and ask; what could not be asked stays waiting."""
        before = len(self.chat.turns)
        try:
            answer(self.chat, [*self.media, question], stream=self.chat.settings.num_beams == 1)
        finally:
            if len(self.chat.turns) > before:
                said = self.chat.turns[-1].text
                self.log += [
                    {"role": "user", "content": question, "media": self.shown},
                    {"role": "assistant", "content": said},
                ]
                self.media, self.shown = [], []

    def show_image(self, argument: str) -> None:
        """Take an image for the next question."""
        from navila.images import read_image

        path = _path(argument, "/image FILE")
        self._wait(path, read_image(path))

    def show_video(self, argument: str) -> None:
        """Take a video for the next question."""
        from navila.video import Video, read_video

        path = _path(argument, "/video FILE")
        # To tell at once if it cannot be read.
        read_video(path, 1, fps=self.chat.fps or 0.0)
        self._wait(path, Video(path))

    def _wait(self, path: Path, part: Part) -> None:
        self.media.append(part)
        self.shown.append(str(path))
        click.echo(f"The next question shows {', '.join(self.shown)}.")

    def change_settings(self, argument: str) -> None:
        """Change settings, and show them all."""
        changes: dict[str, Any] = {}
        for word in argument.split():
            setting, equals, value = word.partition("=")
            if not equals:
                raise ConfigError(f"{word} is no setting: write /settings NAME=VALUE.")
            changes[setting] = _value(value)
        sampling = {name: changes.pop(name) for name in ("num_video_frames", "fps") if name in changes}
        if not (sampling.get("num_video_frames", 1) is None or _is_number(sampling.get("num_video_frames", 1), 1, int)):
            raise ConfigError("num_video_frames must be a whole number, 1 or more, or null for the model's.")
        if not (sampling.get("fps", 0) is None or _is_number(sampling.get("fps", 0), 0, int, float)):
            raise ConfigError("fps must be a number, 0 or more, or null for the model's.")
        self.chat.change(**changes)
        for name, value in sampling.items():
            setattr(self.chat, name, value)
        config = self.chat.model.config
        videos = {
            "num_video_frames": self.chat.num_video_frames or config.num_video_frames,
            "fps": config.fps if self.chat.fps is None else self.chat.fps,
        }
        for name, value in (vars(self.chat.settings) | videos).items():
            click.echo(f"{name} = {json.dumps(value, ensure_ascii=False)}")

    def save(self, argument: str) -> None:
        """Write the conversation."""
        path = _path(argument, "/save FILE")
        if path.exists():
            raise ConfigError(f"{path} is there already: give another name.")
        content = {"model": self.name, "settings": vars(self.chat.settings), "messages": self.log}
        write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        click.echo(f"Written to {path}.")

    def reset(self, _: str) -> None:
        """Forget the conversation, and what waits for the next question."""
        self.chat.reset()
        self.media, self.shown, self.log = [], [], []
        click.echo("Forgotten.")

    def _complete_lines(self) -> None:
        """Let Tab complete commands and paths, where the terminal has readline."""
        if not sys.stdin.isatty():
            return
        try:
            import readline
        except ImportError:
            return
        readline.set_completer_delims("")
        readline.set_completer(lambda text, state: dict(enumerate(completions(text, self.commands))).get(state))
        readline.parse_and_bind("tab: complete")


def completions(line: str, commands: Sequence[str] | dict[str, Any]) -> list[str]:
    """Lines that a line may become: a command, or a command with a path."""
    command, space, path = line.partition(" ")
    if not space:
        return sorted(f"{name} " for name in (*commands, "/quit") if name.startswith(command)) if command else []
    if command not in ("/image", "/video", "/save"):
        return []
    folder, slash, start = path.rpartition("/")
    place = Path(f"{folder}{slash}" or ".").expanduser()
    if not place.is_dir():
        return []
    found = sorted(entry for entry in place.iterdir() if entry.name.startswith(start))
    return [f"{command} {folder}{slash}{entry.name}{'/' if entry.is_dir() else ''}" for entry in found]


def _path(argument: str, usage: str) -> Path:
    """The path a command was given, which may stand in quotes."""
    if len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "'\"":
        argument = argument[1:-1]
    if not argument:
        raise ConfigError(f"The file is missing: write {usage}.")
    return Path(argument).expanduser()


def _is_number(value: Any, least: int, *kinds: type) -> bool:
    return type(value) in kinds and least <= value < float("inf")


def _value(text: str) -> Any:
    """A number, true, false or null as JSON has them, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
