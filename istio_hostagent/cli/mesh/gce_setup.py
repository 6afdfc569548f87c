"""Install the package and the files of a classic mesh on machines of Google's cloud, by gcloud.

As `mesh setup`, with `gcloud compute ssh` and `scp` (GCP_OPTS: their options) and without key and
certificate: the machine shows its identity document to the CA.
"""

import argparse

from . import arguments, setup
from .arguments import Environment


def add_options(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Options of this verb."""
    setup.add_hosts(parser)
    parser.add_argument(
        "-n",
        "--namespace",
        type=arguments.named("namespace"),
        default=environment.get("SERVICE_NAMESPACE") or None,
        metavar="NAME",
        help="of the service account (SERVICE_NAMESPACE)",
    )
    setup.add_classic(parser, environment)


def execute(values: argparse.Namespace, environment: Environment) -> int:
    """Set the machines up."""
    made = setup.make_classic(values, environment, root_alone=True)
    return setup.perform(values, environment, lambda _host: made, is_google=True)
