"""Print or apply the Services by which hosts outside a cluster reach a classic control plane.

Those of mesh-expansion.yaml of the release, for Pilot, Mixer, the CA and kube-dns, each an
internal load balancer. With --apply a Service that is there keeps what others have added to it.
"""

import argparse

from ...cluster import balancers
from ...expansion import goyaml, loadbalancers
from . import arguments
from .arguments import Environment


def add_options(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Options of this verb."""
    arguments.add_cluster(parser, environment)
    arguments.add_release(parser)
    parser.add_argument("--apply", action="store_true", help="create or update them")
    parser.add_argument(
        "--annotation",
        action="append",
        type=arguments.checked(_annotation),
        metavar="KEY=VALUE",
        help="instead of Google's for internal load balancers, as another cloud wants it;"
        " may be repeated",
    )


def execute(values: argparse.Namespace, environment: Environment) -> int:
    """Print to standard output, or apply and say what was done."""
    annotations = dict(values.annotation) if values.annotation else loadbalancers.INTERNAL
    wanted = [
        loadbalancers.service(each, annotations)
        for each in loadbalancers.of_release(values.release, values.istio_namespace)
    ]
    if not values.apply:
        print("---\n".join(goyaml.dump(each) for each in wanted), end="")
        return 0
    with arguments.open_client(values, environment) as client:
        for each in wanted:
            what = balancers.apply(client, each)
            metadata = each["metadata"]
            print(f"Service {metadata['name']} in namespace {metadata['namespace']}: {what}")
    return 0


def _annotation(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r} is not KEY=VALUE")
    return key, value
