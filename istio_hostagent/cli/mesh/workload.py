"""Write what a host needs to join today's Istio, from a WorkloadGroup of the cluster or a file.

cluster.env, mesh.yaml, root-cert.pem, istio-token and hosts: the files of `istioctl x workload
entry configure`, byte for byte. The token is readable for you alone, and soon over: use it.
"""

import argparse
import datetime
import sys
from collections.abc import Mapping

from ...cluster import dates, workloads
from ...cluster.client import Client
from ...errors import ConfigInvalid, Problem, describe
from ...expansion import workload
from ...host import files
from . import arguments, outfiles
from .arguments import Environment

TOKEN_LIFE_S = 3600
Files = Mapping[str, bytes]


def add_options(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Options of this verb."""
    parser.add_argument("-f", "--file", default="", metavar="FILE", help="a WorkloadGroup")
    parser.add_argument(
        "--name", default="", metavar="NAME", help="a WorkloadGroup of the cluster"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="DIRECTORY", help="where to write"
    )
    parser.add_argument("-n", "--namespace", default="", metavar="NAME", help="of the group")
    arguments.add_cluster(parser, environment)
    add_wishes(parser)


def add_wishes(parser: argparse.ArgumentParser) -> None:
    """What the files are to say; words and defaults are those of istioctl."""
    # Both spellings: istioctl's, and that of other options here.
    parser.add_argument("--cluster-id", "--clusterID", metavar="ID", help="the cluster's name")
    parser.add_argument(
        "--token-duration",
        "--tokenDuration",
        type=int,
        default=TOKEN_LIFE_S,
        metavar="SECONDS",
        help="life of the token (%(default)s)",
    )
    parser.add_argument(
        "--ingress-service",
        "--ingressService",
        default=workload.GATEWAY,
        metavar="NAME",
        help="by which istiod is reached, NAME or NAME.NAMESPACE (%(default)s)",
    )
    _add_address(parser, "ingress", "of that Service")
    _add_address(parser, "internal", "of the host, inside its network")
    _add_address(parser, "external", "of the host, from outside its network")
    parser.add_argument("--autoregister", action="store_true", help="istiod makes a WorkloadEntry")
    parser.add_argument(
        "--capture-dns",
        nargs="?",
        default="true",
        const="true",
        choices=("true", "false"),
        help="queries for names are captured (true)",
    )
    parser.add_argument(
        "--revision", "-r", default="", metavar="NAME", help="of the control plane"
    )


def _add_address(parser: argparse.ArgumentParser, which: str, line: str) -> None:
    parser.add_argument(
        f"--{which}-ip",
        f"--{which}IP",
        type=arguments.address,
        metavar="ADDRESS",
        help=line,
    )


def execute(values: argparse.Namespace, environment: Environment) -> int:
    """Write the files; what is worth knowing goes to standard error."""
    check(values, values.name)
    with arguments.open_client(values, environment) as client:
        group = find_group(client, values, values.name)
        made = make(client, group, values)
    outfiles.write(values.output, made)
    print(f"{', '.join(sorted(made))} are written to {values.output}")
    return 0


def check(values: argparse.Namespace, name: str) -> None:
    """Raise WrongUsage for words that do not go together."""
    if not values.file and not (name and values.namespace):
        raise arguments.wrong("a WorkloadGroup is named by --file, or by name and --namespace")
    if values.internal_ip and values.external_ip:
        raise arguments.wrong("--internal-ip and --external-ip exclude each other")
    if values.token_duration < workloads.SHORTEST_TOKEN_S:
        raise arguments.wrong(
            f"--token-duration: API servers give no token of less than"
            f" {workloads.SHORTEST_TOKEN_S} seconds"
        )


def find_group(client: Client, values: argparse.Namespace, name: str) -> workload.Group:
    """Return the group of the file, or of the cluster."""
    if not values.file:
        return workloads.get_group(client, name, values.namespace)
    try:
        data = files.read_bounded(values.file)
        text = data.decode()
    except OSError as error:
        problem = Problem(values.file, 0, f"cannot be read: {describe(error)}")
        raise ConfigInvalid([problem]) from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid([Problem(values.file, 0, "is no UTF-8 text")]) from error
    return workloads.parse_group(values.file, text, values.namespace)


def make(client: Client, group: workload.Group, values: argparse.Namespace) -> Files:
    """Return the files by name, with a new token."""
    wishes = workload.Wishes(
        cluster_id=values.cluster_id or "",
        revision=values.revision,
        istio_namespace=values.istio_namespace,
        internal_address=values.internal_ip or "",
        external_address=values.external_ip or "",
        captures_names=values.capture_dns == "true",
        registers_itself=values.autoregister,
    )
    if values.cluster_id is None:
        wishes = wishes._replace(cluster_id=workloads.find_cluster_id(client, wishes))
    built = workloads.make_files(client, group, wishes)
    root = workloads.root(client, group.namespace)
    gateway = workloads.Gateway(values.ingress_ip or "")
    if not values.ingress_ip:
        gateway = workloads.find_gateway(client, values.ingress_service, values.istio_namespace)
    if gateway.missing:
        print(
            f"warning: hosts is empty: {gateway.missing}; name the address by which hosts reach"
            f" {wishes.control_plane} with --ingress-ip",
            file=sys.stderr,
        )
    token = workloads.create_token(client, group, values.token_duration)
    if (end := dates.end_of_token(token)) is not None:
        moment = datetime.datetime.fromtimestamp(end, datetime.timezone.utc)
        print(f"the token of {group.account} ends at {moment:%Y-%m-%d %H:%M} UTC", file=sys.stderr)
    return {
        "cluster.env": built.cluster_env.encode(),
        "mesh.yaml": built.mesh_yaml.encode(),
        "root-cert.pem": root.encode(),
        "istio-token": token.encode(),
        "hosts": workload.hosts(gateway.address, wishes).encode(),
    }
