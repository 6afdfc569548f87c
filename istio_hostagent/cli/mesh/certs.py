"""Fetch the certificate files of a service account that a classic CA has made.

root-cert.pem, and with `all` cert-chain.pem and key.pem: from 0.6 on as setupMeshEx.sh has it;
before, all three without a word. The key is readable for you alone.
"""

import argparse

from ...cluster import dates, machinecerts
from . import arguments, outfiles
from .arguments import Environment

PREFIX = "istio."


def add_options(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Options of this verb."""
    add_account(parser, environment)
    parser.add_argument("all", nargs="?", choices=("all",), help="key and certificate, too")
    arguments.add_cluster(parser, environment)
    arguments.add_release(parser)
    arguments.add_output(parser)
    add_prefix(parser, environment)


def add_account(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Whose files."""
    parser.add_argument(
        "account",
        nargs="?",
        type=arguments.named("service account"),
        default=environment.get("SERVICE_ACCOUNT") or "default",
        metavar="ACCOUNT",
        help="service account (SERVICE_ACCOUNT; %(default)s)",
    )
    parser.add_argument(
        "namespace",
        nargs="?",
        type=arguments.named("namespace"),
        default=environment.get("SERVICE_NAMESPACE") or None,
        metavar="NAMESPACE",
        help="its namespace (SERVICE_NAMESPACE; that of the context)",
    )


def add_prefix(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """How the CA calls its Secrets."""
    parser.add_argument(
        "--prefix",
        default=environment.get("ISTIO_SECRET_PREFIX") or PREFIX,
        metavar="TEXT",
        help="of the Secret's name (ISTIO_SECRET_PREFIX; %(default)s)",
    )


def execute(values: argparse.Namespace, environment: Environment) -> int:
    """Write the files and name them."""
    root_alone = values.all is None and values.release.fetches_root_alone
    made = make(values, environment, root_alone=root_alone)
    outfiles.write(values.output, made)
    print(f"{', '.join(made)} {'is' if len(made) == 1 else 'are'} written")
    return 0


def make(
    values: argparse.Namespace, environment: Environment, *, root_alone: bool
) -> dict[str, bytes]:
    """Return the files by name."""
    with arguments.open_client(values, environment) as client:
        return machinecerts.fetch(
            client,
            values.account,
            values.namespace or client.namespace,
            prefix=values.prefix,
            root_alone=root_alone,
            now=dates.now(),
        )
