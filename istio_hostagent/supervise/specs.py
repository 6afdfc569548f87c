"""What to start, as values: argument lists, environments, users, and the directories they find.

Not here: the bootstrap's contents (`bootstrap`), who starts a process, and when (`child`).
Always: an environment is made from nothing, no value meets a shell, and no argument or variable
carries a key or a token.
"""

from typing import NamedTuple

from ..config import model
from . import controlplane, liveness, pilot

ENVOY = "envoy"
PILOT_AGENT = "pilot-agent"

# Below the directory that Envoy is started in: where it makes the socket of its admin interface.
ADMIN_DIRECTORY = "admin"
ADMIN_SOCKET = f"{ADMIN_DIRECTORY}/envoy.sock"

# How long Envoy goes on with open connections after it was told to end.
DRAIN_S = 5


class Admin(NamedTuple):
    """Where Envoy's admin interface is: a unix socket, or else a port of 127.0.0.1."""

    socket: str = ""
    port: int = model.AGENT_ADMIN_PORT


class ProcessSpec(NamedTuple):
    """A process to start, and what must lie in its working directory before.

    `directory` is absolute, or empty where the working directory does not matter. `directories`
    are relative to it and owned by the process's user with mode 0700. `links` are pairs (path
    relative to `directory`, absolute target); a target need not exist. The parents of both belong
    to root, readable by the process's group. The first of `doors` is ready once the process
    serves; all of them together tell whether the processes live. `control_plane` is the one of
    them that answers with what `controlplane` reads; None: there is no control plane. It serves
    only while it listens on the ports `listens`; where nothing is captured, a control plane may
    have it listen nowhere. `is_net_admin`: it has CAP_NET_ADMIN, without
    which there are no sockets for addresses of others (ip(7), IP_TRANSPARENT) and no marks.
    `name_servers`: those of resolv.conf(5), which it reads for itself, and only when it starts.
    """

    name: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    user_uid: int
    user_gid: int
    directory: str = ""
    doors: tuple[liveness.Door, ...] = ()
    control_plane: liveness.Door | None = None
    listens: tuple[int, ...] = ()
    directories: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    admin: Admin = Admin()
    is_net_admin: bool = False
    name_servers: tuple[model.Address, ...] = ()


def binary_candidates(proxy: model.ProxySettings, name: str) -> tuple[str, ...]:
    """Return where the binary `name` (ENVOY or PILOT_AGENT) is looked for, first place first."""
    if name == ENVOY and proxy.envoy is not None:
        return (proxy.envoy,)
    places = (proxy.bin_base, "/usr/local/bin", "/usr/bin")
    return tuple(f"{place}/{name}" for place in dict.fromkeys(places))


def envoy_spec(
    config: model.Config,
    facts: model.HostFacts,
    envoy: str,
    bootstrap_file: str,
    directory: str,
) -> ProcessSpec:
    """Return Envoy with a bootstrap of ours; all paths are absolute.

    Below `directory` is ADMIN_SOCKET, which root without further rights cannot reach either: that
    Envoy lives is asked where anybody may, and its readiness is the word of its admin interface.
    """
    argv = [
        *_envoy_argv(config.proxy, envoy, bootstrap_file),
        "--concurrency",
        str(config.proxy.concurrency),
        "--drain-time-s",
        str(DRAIN_S),
        "--drain-strategy",
        "immediate",
        # Access log lines reach the journal within a second, not ten.
        "--file-flush-interval-msec",
        "1000",
    ]
    if facts.addresses and all(address.version == 6 for address in facts.addresses):
        argv += ["--local-address-ip-version", "v6"]
    return ProcessSpec(
        name=ENVOY,
        argv=tuple(argv),
        environment=(),
        user_uid=facts.proxy_uid,
        user_gid=facts.proxy_gid,
        directory=directory,
        doors=(liveness.Door(ENVOY, config.proxy.status_port, "/healthz/ready"),),
        directories=(ADMIN_DIRECTORY,),
        admin=Admin(f"{directory}/{ADMIN_SOCKET}"),
        listens=config.redirection.capture_ports if config.redirection.captures else (),
        is_net_admin=config.redirection.is_transparent,
    )


def validate_spec(
    config: model.Config, facts: model.HostFacts, envoy: str, bootstrap_file: str
) -> ProcessSpec:
    """Return the run of Envoy that validates a bootstrap: status 0, or 1 and the reason on stderr.

    It opens no port, and needs the files of `render_sds` in their place.
    """
    return ProcessSpec(
        name="envoy (validation)",
        argv=(*_envoy_argv(config.proxy, envoy, bootstrap_file), "--mode", "validate"),
        environment=(),
        user_uid=facts.proxy_uid,
        user_gid=facts.proxy_gid,
    )


def pilot_agent_spec(
    config: model.Config, facts: model.HostFacts, binary: str, directory: str
) -> ProcessSpec:
    """Return pilot-agent of today's generation with the certificate that we hold.

    `directory` is an absolute path, private to it: everything that pilot-agent reads and writes is
    named relative to its working directory.
    """
    counters = liveness.Door(
        ENVOY, model.AGENT_ADMIN_PORT, controlplane.PATH, controlplane.MAX_ANSWER
    )
    return ProcessSpec(
        name=PILOT_AGENT,
        argv=(binary, "proxy", *config.proxy.agent_flags),
        environment=pilot.build_environment(config, facts, directory),
        user_uid=facts.proxy_uid,
        user_gid=facts.proxy_gid,
        directory=directory,
        # Its Envoy's doors, and its own. Where PROXY_CONFIG moves one of these ports, nobody
        # answers at the default, and what has never answered is not counted.
        doors=(
            liveness.Door(ENVOY, config.proxy.status_port, "/healthz/ready"),
            counters,
            liveness.Door(PILOT_AGENT, model.AGENT_STATUS_PORT, "/healthz/ready"),
        ),
        control_plane=counters,
        # Where it answers queries for names, too.
        listens=config.redirection.answer_ports if config.redirection.captures else (),
        is_net_admin=config.redirection.is_transparent,
        directories=pilot.DIRECTORIES,
        links=pilot.build_links(config),
        name_servers=facts.proxy_servers if config.redirection.dns.is_captured else (),
    )


def _envoy_argv(proxy: model.ProxySettings, envoy: str, bootstrap_file: str) -> tuple[str, ...]:
    # pilot-agent's notation: the general level first, then levels of components.
    level, _, components = proxy.log_level.partition(",")
    component_levels = ("--component-log-level", components) if components else ()
    return (
        envoy,
        "-c",
        bootstrap_file,
        "-l",
        level,
        *component_levels,
        "--disable-hot-restart",
        # One field of ours is younger than the oldest Envoy in use (`listeners`).
        "--allow-unknown-static-fields",
    )
