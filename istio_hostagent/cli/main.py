"""Dispatch: one verb, one module, one exit status. An unknown verb or option starts nothing."""

import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import SHORTAGES, ConfigInvalid, HostAgentError, WrongUsage, describe
from ..host import instances
from . import options, verbs

_INSTANCE = "--instance"
BUG_STATUS = 70
SHORTAGE_STATUS = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        words = _choose_instance(words)
    except HostAgentError as error:
        print(f"istio-hostagent: {error}", file=sys.stderr)
        return error.exit_status
    if not words or words[0] in ("-h", "--help", "help"):
        print(verbs.overview())
        return 0 if words else options.USAGE_STATUS
    if words[0] == "--version":
        print(f"istio-hostagent {__version__}")
        return 0
    verb = next((verb for verb in verbs.VERBS if verb.name == words[0]), None)
    if verb is None:
        print(f"istio-hostagent: unknown verb {words[0]!r}; see --help", file=sys.stderr)
        return options.USAGE_STATUS
    try:
        return _perform(verb, words[1:])
    except SystemExit as end:
        return int(end.code or 0)
    except ConfigInvalid as error:
        for problem in error.problems:
            print(f"istio-hostagent: {problem}", file=sys.stderr)
        return error.exit_status
    except HostAgentError as error:
        print(f"istio-hostagent: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno not in SHORTAGES:
            return _bug()
        place = f"{error.filename}: " if error.filename else ""
        print(f"istio-hostagent: {place}{describe(error)}", file=sys.stderr)
        return SHORTAGE_STATUS
    except KeyboardInterrupt:
        return 130
    except Exception:  # noqa: BLE001 # the last place: say once that this is a bug
        return _bug()


def _choose_instance(words: list[str]) -> list[str]:
    """Take --instance NAME in front of the verb, which is another way to set the variable.

    Raises WrongUsage.
    """
    if words and words[0].partition("=")[0] == _INSTANCE:
        _, is_joined, name = words[0].partition("=")
        if not is_joined and len(words) < 2:
            raise WrongUsage(f"{_INSTANCE} needs a name")
        os.environ[instances.KEY] = name if is_joined else words[1]
        words = words[1 if is_joined else 2 :]
        instances.check_name(instances.own())
    elif instances.own():
        instances.check_name(instances.own())
    return words


def _bug() -> int:
    print("istio-hostagent: this is a bug in istio-hostagent", file=sys.stderr)
    sys.excepthook(*sys.exc_info())
    return BUG_STATUS


def _perform(verb: verbs.Verb, words: Sequence[str]) -> int:
    # Only the verb's own module is imported: `apply` must not pay for `run`.
    module = importlib.import_module(f".{verb.name}", __package__)
    if verb.has_verbs:
        return int(module.perform(words))
    values = options.parse(
        f"istio-hostagent {verb.name}",
        words,
        module.OPTIONS,
        text=module.__doc__ or "",
        example=f"istio-hostagent {verb.example}",
    )
    return int(module.execute(values))
