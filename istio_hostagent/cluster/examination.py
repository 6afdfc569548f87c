"""What hosts will need of a cluster, looked at: each Finding says what is wrong and what to do."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from ..errors import HostAgentError
from ..expansion import loadbalancers, workload
from ..expansion.releases import Release
from . import balancers, failures, machinecerts, networks, resources, workloads
from .client import Client
from .dates import now

SERVER = "API server"


class Finding(NamedTuple):
    """One thing that hosts need: what there is, or what is wrong and then what to do."""

    subject: str
    is_fine: bool
    words: str
    advice: str = ""


class Host(NamedTuple):
    """Whose host is meant: a WorkloadGroup if one is named, its or another namespace."""

    group: str
    namespace: str
    account: str


def is_classic(client: Client, istio_namespace: str) -> bool:
    """Return whether the control plane is one of 0.2 to 1.0: Pilot without istiod."""
    try:
        if client.find(resources.SERVICES, "istiod", istio_namespace) is not None:
            return False
        return client.find(resources.SERVICES, "istio-pilot", istio_namespace) is not None
    except failures.ClusterRefused:
        # What is looked at then says that this user may not.
        return False


def examine_server(client: Client) -> Iterator[Finding]:
    """Look at the API server itself."""
    yield _try(SERVER, lambda: f"{client.access.cluster.server}, {client.version()}")


def examine_modern(
    client: Client, host: Host, wishes: workload.Wishes, gateway: str
) -> Iterator[Finding]:
    """Look at what hosts of today's Istio need."""
    yield _guarded("control plane", lambda: _control_plane(client, wishes))
    yield _try("name of the cluster", lambda: _cluster_id(client, wishes))
    yield _guarded("WorkloadGroups", lambda: _custom_resources(client))
    yield _guarded("way to istiod", lambda: _gateway(client, gateway, wishes))
    namespace = host.namespace
    yield _namespace(client, namespace)
    yield _try("root certificate", lambda: _roots(client, namespace))
    account = host.account
    if host.group:
        group = _Found()
        yield _group(client, host, wishes, group)
        account = group.account or account
    yield _account(client, account, namespace)
    yield _guarded("tokens for hosts", lambda: _tokens(client, namespace))


def examine_classic(
    client: Client, host: Host, release: Release, istio_namespace: str, prefix: str
) -> Iterator[Finding]:
    """Look at what hosts of a classic release need."""
    for each in loadbalancers.of_release(release, istio_namespace):
        yield _balancer(client, each)
    yield _guarded("networks of services", lambda: _networks(client))
    yield _namespace(client, host.namespace)
    yield _account(client, host.account, host.namespace)
    yield _try(
        "certificate files",
        lambda: ", ".join(
            machinecerts.fetch(
                client,
                host.account,
                host.namespace,
                prefix=prefix,
                root_alone=False,
                now=now(),
            )
        ),
    )


def _try(subject: str, look: Callable[[], str]) -> Finding:
    """A finding whose error says what is wrong, and what to do."""
    try:
        words = look()
    except HostAgentError as error:
        return Finding(subject, False, error.message, error.hint)
    return Finding(subject, bool(words), words or "is empty")


def _guarded(subject: str, look: Callable[[], Finding]) -> Finding:
    """A finding; where it cannot be had, why."""
    try:
        return look()
    except HostAgentError as error:
        return Finding(subject, False, error.message, error.hint)


def _balancer(client: Client, balancer: loadbalancers.LoadBalancer) -> Finding:
    subject = f"load balancer {balancer.name}"

    def look() -> Finding:
        reached = balancers.look(client, balancer)
        if reached.missing:
            advice = "`istio-hostagent mesh load-balancers --apply` makes it; a cloud, or"
            advice += " something as MetalLB, gives it an address; else see `mesh dnsmasq --node`"
            return Finding(subject, False, reached.missing, advice)
        where = f" ({reached.name})" if reached.name else ""
        return Finding(subject, True, reached.address + where)

    return _guarded(subject, look)


def _control_plane(client: Client, wishes: workload.Wishes) -> Finding:
    name = wishes.control_plane.partition(".")[0]
    namespace = wishes.istio_namespace
    found = client.find(resources.SERVICES, name, namespace)
    subject = "control plane"
    if found is None:
        advice = "`istioctl install`; --istio-namespace and --revision say which is meant"
        words = f"there is no Service {name} in namespace {namespace}"
        return Finding(subject, False, words, advice)
    ports = {port["port"] for port in found["spec"].get("ports", ())}
    if workload.PORT not in ports:
        words = f"Service {name} has no port {workload.PORT}, at which hosts ask"
        return Finding(subject, False, words, "is it older than Istio 1.5?")
    return Finding(subject, True, wishes.control_plane)


def _roots(client: Client, namespace: str) -> str:
    title = f"{workload.ROOT_CONFIG_MAP} in namespace {namespace}"
    roots = workloads.root(client, namespace).encode()
    machinecerts.check(title, {machinecerts.ROOT: roots}, now())
    return title


def _cluster_id(client: Client, wishes: workload.Wishes) -> str:
    return workloads.find_cluster_id(client, wishes) or "(none)"


def _custom_resources(client: Client) -> Finding:
    subject = "WorkloadGroups"
    if client.has(resources.WORKLOAD_GROUPS):
        return Finding(subject, True, "the cluster knows them")
    advice = "`istioctl install`, or the Helm chart istio/base, brings them"
    return Finding(subject, False, "Istio's custom resources are not installed", advice)


def _gateway(client: Client, name: str, wishes: workload.Wishes) -> Finding:
    found = workloads.find_gateway(client, name, wishes.istio_namespace)
    subject = "way to istiod"
    if not found.missing:
        return Finding(subject, True, f"{found.address}, by Service {name}")
    advice = "install an east-west gateway that exposes istiod, or name the address by which"
    advice += " hosts reach it with --ingress-ip"
    return Finding(subject, False, found.missing, advice)


def _namespace(client: Client, name: str) -> Finding:
    subject = f"namespace {name}"
    command = f"`kubectl create namespace {name}`"
    return _guarded(
        subject,
        lambda: Finding(subject, True, "is there")
        if client.find(resources.NAMESPACES, name) is not None
        else Finding(subject, False, "is not there", command),
    )


def _account(client: Client, name: str, namespace: str) -> Finding:
    subject = f"service account {name}"
    command = f"`kubectl create serviceaccount {name} -n {namespace}`"
    return _guarded(
        subject,
        lambda: Finding(subject, True, f"in namespace {namespace}")
        if client.find(resources.SERVICE_ACCOUNTS, name, namespace) is not None
        else Finding(subject, False, f"is not in namespace {namespace}", command),
    )


class _Found:
    """What a look brought besides its finding."""

    account = ""


def _group(client: Client, host: Host, wishes: workload.Wishes, found: _Found) -> Finding:
    def look() -> str:
        group = workloads.get_group(client, host.group, host.namespace)
        found.account = group.account
        workloads.make_files(client, group, wishes)
        return f"in namespace {host.namespace}"

    return _try(f"WorkloadGroup {host.group}", look)


def _tokens(client: Client, namespace: str) -> Finding:
    subject = "tokens for hosts"
    if client.may("create", resources.SERVICE_ACCOUNTS, namespace, "token"):
        return Finding(subject, True, "this user may create them")
    words = f"this user may not create serviceaccounts/token in namespace {namespace}"
    return Finding(subject, False, words, "whoever rules the cluster grants that (RBAC)")


def _networks(client: Client) -> Finding:
    told = networks.ask(client)
    subject = "networks of services"
    if told.networks:
        return Finding(subject, True, ", ".join(told.networks))
    return Finding(subject, False, told.how, "`mesh cluster-env --cidr` says them")


def all_fine(findings: Sequence[Finding]) -> bool:
    """Return whether nothing is wrong."""
    return all(each.is_fine for each in findings)
