"""The `navila` command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from navila.discovery import NO_PLUGINS, PLUGINS_VARIABLE
from navila.errors import EXIT_USAGE, NavilaError, missing_extra

_FULL = ", or make room there"
_CLOSED = ", or make this one writable"
#: What a disk refuses (permission, a full disk, a file where a folder is wanted or the other way round), and what helps
#: besides another place.
_OF_THE_DISK = {
    errno.EACCES: _CLOSED,
    errno.EPERM: _CLOSED,
    errno.EROFS: _CLOSED,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENAMETOOLONG: "",
    errno.ENOTDIR: "",
    errno.EISDIR: "",
}
#: Exit code after Ctrl-C, as shells report it.
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `navila` and return its exit code; unexpected exceptions pass through with their traceback.

    A NavilaError becomes `Error: …` on stderr and its own exit code (2 by default).
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    before = os.environ.get(PLUGINS_VARIABLE)
    try:
        arguments, choices = take_plugin_options(arguments)
        if choices:
            # Through the environment, so that workers that a command starts see the same plugins.
            os.environ[PLUGINS_VARIABLE] = ",".join(([before] if before else []) + choices)
        return _run(arguments)
    except NavilaError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        # Core can be installed without what models need; a command finds out when it runs.
        if _interrupted(error):
            return EXIT_INTERRUPTED
        missing = missing_extra(error, "This command")
        if missing is None:
            raise
        print(f"Error: {missing}", file=sys.stderr)
        return missing.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader left (`navila … | head`): keep the interpreter's own flush at exit from complaining.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        where = f"{error.filename} cannot be used" if error.filename else "A file cannot be written"
        print(f"Error: {where} ({error.strerror}): give another place{_OF_THE_DISK[error.errno]}.", file=sys.stderr)
        return EXIT_USAGE
    finally:
        if before is None:
            os.environ.pop(PLUGINS_VARIABLE, None)
        else:
            os.environ[PLUGINS_VARIABLE] = before


def take_plugin_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take `--plugin X`, `--plugin=X` and `--no-plugins` out of an argument list, wherever before `--` they stand.

    Returns the other arguments and the plugin choices in order. Raises NavilaError when `--plugin` names nothing.
    """
    rest: list[str] = []
    choices: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--no-plugins":
            choices.append(NO_PLUGINS)
        elif word == "--plugin" or word.startswith("--plugin="):
            choice = next(words, "") if word == "--plugin" else word.partition("=")[2]
            if not choice or choice.startswith("-"):
                raise NavilaError("--plugin needs a value: NAME, no:NAME, ./file.py or pkg.mod.")
            choices.append(_absolute(choice))
        else:
            rest.append(word)
    return rest, choices


def _absolute(choice: str) -> str:
    """A file's path made absolute, so that it holds in a worker with another working directory."""
    if choice.endswith(".py"):
        choice = os.path.abspath(choice)  # noqa: PTH100 (pathlib is not needed for anything else here)
    if "," in choice:
        raise NavilaError(
            f"--plugin {choice!r}: a comma separates plugins in {PLUGINS_VARIABLE} and cannot be part of one."
        )
    return choice


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C lies behind an error, e.g. of a library that was interrupted while it was imported."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _run(arguments: list[str]) -> int:
    import click

    from navila.cli.root import navila

    try:
        code = navila.main(arguments, prog_name="navila", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        if _interrupted(error):
            return EXIT_INTERRUPTED
        print("Aborted!", file=sys.stderr)
        return 1
    # The root group swallows what commands return: an int here is the code of an early exit (--help, ctx.exit(n)).
    return code if isinstance(code, int) else 0
