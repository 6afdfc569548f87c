"""Dispatch: one verb, one module, one exit status. An unknown verb or option starts nothing."""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import ConfigInvalid, HostAgentError
from . import verbs

USAGE_STATUS = 64
BUG_STATUS = 70


class _Parser(argparse.ArgumentParser):
    """Ends with EX_USAGE, so that a wrong option is told from every other failure."""

    def error(self, message: str) -> None:  # type: ignore[override] # argparse says NoReturn
        self.print_usage(sys.stderr)
        self.exit(USAGE_STATUS, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(verbs.overview())
        return 0 if words else USAGE_STATUS
    if words[0] == "--version":
        print(f"istio-hostagent {__version__}")
        return 0
    verb = next((verb for verb in verbs.VERBS if verb.name == words[0]), None)
    if verb is None:
        print(f"istio-hostagent: unknown verb {words[0]!r}; see --help", file=sys.stderr)
        return USAGE_STATUS
    # Only the verb's own module is imported: `apply` must not pay for `run`.
    module = importlib.import_module(f".{verb.name}", __package__)
    parser = _Parser(
        prog=f"istio-hostagent {verb.name}",
        description=module.__doc__,
        epilog=f"example: istio-hostagent {verb.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    try:
        return int(module.execute(parser.parse_args(words[1:])))
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
    except KeyboardInterrupt:
        return 130
    except Exception:
        logging.getLogger(__name__).exception("this is a bug in istio-hostagent")
        return BUG_STATUS
