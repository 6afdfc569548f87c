"""Write cluster.env of a classic mesh: the networks of services, and how Pilot is spoken to.

The networks come from the API server itself. Where it does not tell them, `gcloud` is asked if a
cluster is named, and --cidr says them otherwise.
"""

import argparse
import json
import sys

from ...cluster import networks, programs
from ...errors import HostAgentError
from ...expansion import clusterenv
from . import arguments, outfiles
from .arguments import Environment

FILE = "cluster.env"
_GCLOUD_LIMIT_S = 120.0


class NetworksUnknown(HostAgentError):
    """Nobody tells the networks from which services have their addresses."""

    code = "networks-unknown"
    exit_status = 69


def add_options(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Options of this verb."""
    parser.add_argument(
        "cluster",
        nargs="?",
        default=environment.get("K8S_CLUSTER", ""),
        metavar="CLUSTER",
        help="name for gcloud, where the API server does not tell (K8S_CLUSTER)",
    )
    arguments.add_cluster(parser, environment)
    arguments.add_release(parser)
    arguments.add_output(parser)
    add_texts(parser, environment)


def add_texts(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """What goes into the file."""
    parser.add_argument(
        "--cidr",
        action="append",
        type=arguments.network,
        metavar="NETWORK",
        help="of services; may be repeated. Nobody is asked then",
    )
    parser.add_argument(
        "--policy",
        choices=clusterenv.POLICIES,
        default=environment.get("CONTROL_PLANE_AUTH_POLICY") or clusterenv.POLICIES[0],
        help="of the control plane (CONTROL_PLANE_AUTH_POLICY; %(default)s)",
    )


def execute(values: argparse.Namespace, environment: Environment) -> int:
    """Write the file and say where the networks are from."""
    outfiles.write(values.output, {FILE: make(values, environment)})
    print(f"{FILE} is written")
    return 0


def make(values: argparse.Namespace, environment: Environment) -> bytes:
    """Return the file. Raises NetworksUnknown."""
    told = _find_networks(values, environment)
    print(f"networks of services: {', '.join(told.networks)} ({told.how})", file=sys.stderr)
    text = clusterenv.render(values.release, told.networks, values.istio_namespace, values.policy)
    return text.encode()


def _find_networks(values: argparse.Namespace, environment: Environment) -> networks.Told:
    if values.cidr:
        return networks.Told(tuple(values.cidr), "--cidr")
    with arguments.open_client(values, environment) as client:
        told = networks.ask(client)
    if told.networks:
        return told
    cluster = getattr(values, "cluster", "")
    if cluster:
        return _ask_gcloud(cluster, environment)
    raise NetworksUnknown(
        f"the networks of services are not told: {told.how}", hint="--cidr says them"
    )


def _ask_gcloud(cluster: str, environment: Environment) -> networks.Told:
    options = environment.get("GCP_OPTS", "").split()
    words = ["gcloud", "container", "clusters", "describe", cluster, *options, "--format=json"]
    try:
        done = programs.run(words, environment, timeout_s=_GCLOUD_LIMIT_S, shows_errors=True)
    except (programs.NotStarted, programs.TookTooLong) as error:
        hint = "--cidr says the networks of services"
        raise NetworksUnknown(f"gcloud cannot be asked: {error}", hint=hint) from error
    try:
        network = str(json.loads(done.output)["servicesIpv4Cidr"])
    except (ValueError, KeyError, TypeError) as error:
        words_of = f"gcloud tells no network of services of {cluster} (status {done.status})"
        raise NetworksUnknown(words_of, hint="--cidr says it") from error
    return networks.Told((network,), f"gcloud, of {cluster}")
