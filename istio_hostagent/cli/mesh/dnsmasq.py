"""Write kubedns: the lines by which dnsmasq on a host answers for a classic control plane.

Waits until each of the four load balancers (`mesh load-balancers`) has an address, or a host name
that is found. Without load balancers, --node takes the node ports of the same Services.
"""

import argparse
import sys

from ...cluster import balancers
from ...expansion import dnsmasq, loadbalancers
from ...expansion.loadbalancers import LoadBalancer
from . import arguments, outfiles
from .arguments import Environment

FILE = "kubedns"
# setupMeshEx.sh looks 20 times, every 30 s.
WAIT_S = 600.0


def add_options(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Options of this verb."""
    arguments.add_cluster(parser, environment)
    arguments.add_release(parser)
    arguments.add_output(parser)
    add_waiting(parser)


def add_waiting(parser: argparse.ArgumentParser) -> None:
    """Where addresses come from, and how long they are waited for."""
    parser.add_argument(
        "--node",
        type=arguments.address,
        metavar="ADDRESS",
        help="of a node of the cluster, whose node ports are used",
    )
    parser.add_argument(
        "--domain", default=dnsmasq.DOMAIN, metavar="NAME", help="of services (%(default)s)"
    )
    parser.add_argument(
        "--timeout",
        type=arguments.seconds,
        default=WAIT_S,
        metavar="SECONDS",
        help="how long to wait for addresses (%(default)g)",
    )


def execute(values: argparse.Namespace, environment: Environment) -> int:
    """Write the file."""
    outfiles.write(values.output, {FILE: make(values, environment)})
    print(f"{FILE} is written")
    return 0


def make(values: argparse.Namespace, environment: Environment) -> bytes:
    """Return the file once every address is there. Raises AddressesMissing."""
    wanted = loadbalancers.of_release(values.release, values.istio_namespace)
    with arguments.open_client(values, environment) as client:
        found = balancers.wait(
            client,
            wanted,
            node_address=values.node or "",
            timeout_s=values.timeout,
            tell=lambda words: print(f"waiting: {words}", file=sys.stderr),
        )
    for balancer in wanted:
        _tell(balancer, found[balancer.role])
    targets = {
        role: dnsmasq.Target(each.address, each.port if role == "dns" else 0)
        for role, each in found.items()
    }
    text = dnsmasq.render(values.release, targets, values.istio_namespace, domain=values.domain)
    return text.encode()


def _tell(balancer: LoadBalancer, reached: balancers.Reached) -> None:
    where = f"{reached.address} port {reached.port}" if reached.port else reached.address
    print(f"{balancer.role}: {where}", file=sys.stderr)
    if reached.name:
        print(
            f"  {balancer.name} is at {reached.name}, whose addresses may change: write"
            f" {FILE} anew when they do",
            file=sys.stderr,
        )
    if reached.port and balancer.role == "pilot":
        print(f"  hosts need ISTIO_PILOT_PORT={reached.port} in sidecar.env", file=sys.stderr)
    if reached.port and balancer.role == "ca":
        words = f"CITADEL_ADDRESS={reached.address}:{reached.port}"
        print(f"  hosts need {words} in sidecar.env", file=sys.stderr)
