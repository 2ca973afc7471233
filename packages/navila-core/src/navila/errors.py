"""Errors a user can act on: one sentence saying what was wrong, where, and what to do."""

from __future__ import annotations

#: Exit code for a user's mistake.
EXIT_USAGE = 2
#: Exit code for "stopped early, run the same command again to resume" (EX_TEMPFAIL of sysexits.h).
EXIT_RESUME = 75


def reason(error: BaseException, limit: int = 300) -> str:
    """What an error says, on one line; its type where it says nothing, and its beginning where it says much."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        # It says nothing but the key.
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= limit else f"{text[:limit].rsplit(' ', 1)[0]} …"


class NavilaError(Exception):
    """A mistake the user can mend; the command line prints it as one sentence and exits with `exit_code`."""

    exit_code: int = EXIT_USAGE


class Interrupted(NavilaError):
    """A long job was stopped early; the same command goes on with it."""

    exit_code = EXIT_RESUME


class UnknownComponentError(NavilaError):
    """No installed plugin offers a component of that name."""


class AmbiguousComponentError(NavilaError):
    """Several installed distributions claim the name that was used."""


class MissingDependencyError(NavilaError):
    """A component needs a package that is not installed."""


#: Importable names that `navila-core[torch]` installs.
_TORCH_EXTRA = ("torch", "transformers", "safetensors", "accelerate", "numpy", "PIL", "av")


def missing_extra(error: ModuleNotFoundError, what: str) -> MissingDependencyError | None:
    """The sentence for an import that failed for want of `navila-core[torch]`, or None when it failed otherwise."""
    name = (error.name or "").partition(".")[0]
    if name not in _TORCH_EXTRA:
        return None
    return MissingDependencyError(f"{what} needs {name}, not installed here: run `pip install 'navila-core[torch]'`.")


class PluginError(NavilaError):
    """A plugin is broken in a way that blocks what was asked for."""


class ConfigError(NavilaError):
    """A configuration file, flag or field has a wrong value."""


class NoTemplateError(ConfigError):
    """Neither a checkpoint nor its tokenizer tells which conversation template it speaks."""


class CheckpointError(NavilaError):
    """A checkpoint is missing, partial, corrupt or of an unknown layout."""


class DataError(NavilaError):
    """A data file or record is missing or malformed."""


class SceneError(NavilaError):
    """A scene cannot be loaded, or an episode does not fit it."""


class SimulatorError(NavilaError):
    """A simulator hangs, died or answers with nonsense: it costs the episode that was walked in it."""


class SimulatorUnavailable(SimulatorError):
    """A simulator cannot be started or reached at all: there is none for any further episode."""
