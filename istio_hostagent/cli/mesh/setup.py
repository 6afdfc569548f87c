"""Install the package and the files on hosts, by ssh and scp, and see them join.

With --group the files of today's Istio, made from a WorkloadGroup, with a token for each host.
Without it those of a classic mesh: kubedns, cluster.env and sidecar.env of the directory --from,
made if they are not there, and the certificate files of the service account. What is on a host as
it should be stays; running it again finishes what was left.

ISTIO_RUN and ISTIO_CP name other programs than ssh and scp. Exit status: 0 if every host is done.
"""

import argparse
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from ...cluster import provision, remote
from ...errors import ConfigInvalid, Problem, describe
from . import arguments, certs, cluster_env, dnsmasq, workload
from .arguments import Environment

UNFINISHED_STATUS = 75
_BROUGHT = (cluster_env.FILE, dnsmasq.FILE, "sidecar.env")


def add_options(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """Options of this verb."""
    add_hosts(parser)
    parser.add_argument(
        "--group", default="", metavar="NAME", help="a WorkloadGroup of the cluster"
    )
    parser.add_argument("--file", default="", metavar="FILE", help="a WorkloadGroup")
    parser.add_argument(
        "-n",
        "--namespace",
        type=arguments.named("namespace"),
        default=environment.get("SERVICE_NAMESPACE") or None,
        metavar="NAME",
        help="of the group or the service account (SERVICE_NAMESPACE)",
    )
    workload.add_wishes(parser)
    add_classic(parser, environment)


def add_hosts(parser: argparse.ArgumentParser) -> None:
    """Which hosts, and how."""
    parser.add_argument(
        "hosts",
        nargs="+",
        type=arguments.checked(remote.check_host),
        metavar="HOST",
        help="as ssh takes it",
    )
    parser.add_argument(
        "--package",
        action="append",
        default=[],
        metavar="FILE",
        help="the package to install, instead of the host's sources of apt",
    )
    parser.add_argument(
        "--parallel", type=int, default=8, metavar="N", help="hosts at once (%(default)s)"
    )
    parser.add_argument(
        "--tries", type=int, default=3, metavar="N", help="to connect to a host (%(default)s)"
    )
    parser.add_argument(
        "--wait",
        type=int,
        default=60,
        metavar="SECONDS",
        help="until a host is in the mesh; 0: not at all (%(default)s)",
    )


def add_classic(parser: argparse.ArgumentParser, environment: Environment) -> None:
    """What a classic host needs."""
    parser.add_argument(
        "--account",
        type=arguments.named("service account"),
        default=environment.get("SERVICE_ACCOUNT") or "default",
        metavar="ACCOUNT",
        help="service account of a classic host (SERVICE_ACCOUNT; %(default)s)",
    )
    parser.add_argument(
        "--from", dest="source", default=".", metavar="DIRECTORY", help="where files are (here)"
    )
    arguments.add_cluster(parser, environment)
    arguments.add_release(parser)
    cluster_env.add_texts(parser, environment)
    dnsmasq.add_waiting(parser)
    certs.add_prefix(parser, environment)


def execute(values: argparse.Namespace, environment: Environment) -> int:
    """Set the hosts up; progress goes to standard error, the table to standard output."""
    if values.group or values.file:
        workload.check(values, values.group)
        if (values.internal_ip or values.external_ip) and len(set(values.hosts)) > 1:
            raise arguments.wrong("--internal-ip and --external-ip are of one host")
        return perform(values, environment, _modern(values, environment), is_google=False)
    made = make_classic(values, environment, root_alone=False)
    return perform(values, environment, lambda _host: made, is_google=False)


def make_classic(
    values: argparse.Namespace, environment: Environment, *, root_alone: bool
) -> dict[str, bytes]:
    """Return the files of a classic host."""
    made = {}
    for name in _BROUGHT:
        path = Path(values.source, name)
        if path.exists():
            made[name] = _read(path)
    if cluster_env.FILE not in made:
        made[cluster_env.FILE] = cluster_env.make(values, environment)
    if dnsmasq.FILE not in made:
        made[dnsmasq.FILE] = dnsmasq.make(values, environment)
    return made | certs.make(values, environment, root_alone=root_alone)


def perform(
    values: argparse.Namespace,
    environment: Environment,
    make: provision.Make,
    *,
    is_google: bool,
) -> int:
    """Set the hosts up with the files that `make` returns for each."""
    for path in values.package:
        _read(Path(path))
    for name in ("parallel", "tries"):
        if getattr(values, name) < 1:
            raise arguments.wrong(f"--{name} must be 1 or more")
    hosts = list(dict.fromkeys(values.hosts))
    tools = remote.tools(
        environment, is_google=is_google, asks_nothing=len(hosts) > 1, tries=values.tries
    )
    job = provision.Job(tools, environment, tuple(values.package), max(values.wait, 0))
    # Files with secrets are taken away on the way out.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _end)
    outcomes = provision.set_up(hosts, make, job, at_once=values.parallel, tell=_tell)
    width = max(len(each.host) for each in outcomes)
    for each in outcomes:
        print(f"{each.host:<{width}}  {'done' if each.is_done else 'FAILED':<6}  {each.words}")
    return 0 if all(each.is_done for each in outcomes) else UNFINISHED_STATUS


def _modern(values: argparse.Namespace, environment: Environment) -> provision.Make:
    """Each host gets a token of its own, which it need not share."""

    def make(_host: str) -> Mapping[str, bytes]:
        with arguments.open_client(values, environment) as client:
            group = workload.find_group(client, values, values.group)
            return workload.make(client, group, values)

    return make


def _tell(host: str, words: str) -> None:
    print(f"{host}: {words}", file=sys.stderr)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problem = Problem(str(path), 0, f"cannot be read: {describe(error)}")
        raise ConfigInvalid([problem]) from error


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
