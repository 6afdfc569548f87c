"""Options that verbs of `mesh` share, and how a command line is read.

Where setupMeshEx.sh reads a variable of the environment, that is the default of an option.
"""

import argparse
import ipaddress
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TypeVar

from ...cluster import access, client
from ...errors import WrongUsage
from ...expansion import releases
from . import USAGE_STATUS, Verb

T = TypeVar("T")
Environment = Mapping[str, str]


def parse(
    verb: Verb, module: ModuleType, words: list[str], environment: Environment
) -> argparse.Namespace:
    """Return what the words say; ends the process for --help and mistakes."""
    parser = argparse.ArgumentParser(
        prog=f"istio-hostagent mesh {verb.name}",
        description=module.__doc__,
        epilog=f"example: istio-hostagent mesh {verb.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_options(parser, environment)
    try:
        # Hosts may stand on both sides of an option.
        return parser.parse_intermixed_args(words)
    except SystemExit as end:
        sys.exit(USAGE_STATUS if end.code else 0)


def add_cluster(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Which cluster, and where its control plane is."""
    parser.add_argument(
        "--kubeconfig", default="", metavar="FILE", help="as kubectl's; else KUBECONFIG counts"
    )
    parser.add_argument("--context", default="", metavar="NAME", help="a context of it")
    parser.add_argument(
        "-i",
        "--istio-namespace",
        type=named("namespace"),
        default=environment.get("ISTIO_NAMESPACE") or "istio-system",
        metavar="NAME",
        help="of the control plane (ISTIO_NAMESPACE; %(default)s)",
    )


def add_release(parser: argparse.ArgumentParser) -> None:
    """Which classic release the control plane is."""
    parser.add_argument(
        "--release",
        type=checked(releases.parse),
        default=releases.parse("1.0"),
        metavar="X.Y.Z",
        help="classic Istio of the cluster, 0.2.7 to 1.0 (1.0)",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Where files are written."""
    parser.add_argument(
        "-o", "--output", default=".", metavar="DIRECTORY", help="where to write (here)"
    )


def open_client(values: argparse.Namespace, environment: Environment) -> client.Client:
    """Return a client of the cluster that is meant."""
    chosen = access.choose(environment, path=values.kubeconfig, context=values.context)
    return client.Client(chosen, environment)


def checked(read: Callable[[str], T]) -> Callable[[str], T]:
    """Return a reader whose ValueError argparse shows with its own words."""

    def reader(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return reader


def named(what: str) -> Callable[[str], str]:
    """Return a reader of the name of an object of Kubernetes."""

    def read(text: str) -> str:
        check_name(what, text)
        return text

    return checked(read)


def check_name(what: str, text: str) -> None:
    """Raise ValueError for what Kubernetes does not take as a name (RFC 1123)."""
    labels = text.split(".")
    is_name = 0 < len(text) <= 253 and all(
        each
        and each.isascii()
        and each.replace("-", "").isalnum()
        and each == each.lower()
        and not each.startswith("-")
        and not each.endswith("-")
        for each in labels
    )
    if not is_name:
        raise ValueError(
            f"{text!r} cannot be the name of a {what}: small letters, digits and '-' are possible"
        )


def address(text: str) -> str:
    """Read an IP address."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no IP address") from None


def network(text: str) -> str:
    """Read a network in CIDR notation."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no network: {error}") from None
    return str(found)


def seconds(text: str) -> float:
    """Read a number of seconds, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return number


def wrong(message: str, *, hint: str = "") -> WrongUsage:
    """Return the error for words that do not go together."""
    return WrongUsage(message, hint=hint)
