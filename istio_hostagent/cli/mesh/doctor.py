"""Say whether hosts can join this cluster's mesh: one line for each thing that they need of it.

Each line that is wrong says what to do. Whether the control plane is a classic one is seen, or
said by --release. Exit status: 0 if all is there, 1 if not.
"""

import argparse
from collections.abc import Iterator

from ...cluster import examination
from ...cluster.client import Client
from ...expansion import releases, workload
from . import arguments, certs
from .arguments import Environment


def add_options(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Options of this verb."""
    arguments.add_cluster(parser, environment)
    parser.add_argument("--group", default="", metavar="NAME", help="a WorkloadGroup to look at")
    parser.add_argument(
        "-n",
        "--namespace",
        type=arguments.named("namespace"),
        default=environment.get("SERVICE_NAMESPACE") or None,
        metavar="NAME",
        help="of the hosts (SERVICE_NAMESPACE; that of the context)",
    )
    parser.add_argument(
        "--account",
        type=arguments.named("service account"),
        default=environment.get("SERVICE_ACCOUNT") or "default",
        metavar="ACCOUNT",
        help="of the hosts (SERVICE_ACCOUNT; %(default)s)",
    )
    parser.add_argument(
        "--revision", "-r", default="", metavar="NAME", help="of the control plane"
    )
    parser.add_argument(
        "--ingress-service",
        default=workload.GATEWAY,
        metavar="NAME",
        help="by which istiod is reached (%(default)s)",
    )
    parser.add_argument(
        "--release",
        type=arguments.checked(releases.parse),
        default=None,
        metavar="X.Y.Z",
        help="the control plane is this classic release",
    )
    certs.add_prefix(parser, environment)


def execute(values: argparse.Namespace, environment: Environment) -> int:
    """Print the findings as they come."""
    findings = []
    with arguments.open_client(values, environment) as client:
        for each in _examine(client, values):
            findings.append(each)
            print(f"{'ok ' if each.is_fine else 'BAD'}  {each.subject}: {each.words}", flush=True)
            if each.advice and not each.is_fine:
                print(f"       {each.advice}")
            if not each.is_fine and each.subject == examination.SERVER:
                break
    return 0 if examination.all_fine(findings) else 1


def _examine(client: Client, values: argparse.Namespace) -> Iterator[examination.Finding]:
    namespace = values.namespace or client.namespace
    host = examination.Host(values.group, namespace, values.account)
    yield from examination.examine_server(client)
    istio = values.istio_namespace
    if values.release or examination.is_classic(client, istio):
        release = values.release or releases.parse("1.0")
        yield from examination.examine_classic(client, host, release, istio, values.prefix)
        return
    wishes = workload.Wishes(revision=values.revision, istio_namespace=istio)
    yield from examination.examine_modern(client, host, wishes, values.ingress_service)
