"""What to start, as values: argument lists, environments, users, and the directories they find.

Not here: the bootstrap's contents (`bootstrap`), who starts a process, and when (`child`).
Always: an environment is made from nothing, no value meets a shell, and no argument or variable
carries a key or a token.
"""

import math
from typing import NamedTuple

from ..config import model
from . import controlplane, liveness, nontransparent, pilot, refusals

ENVOY = "envoy"
PILOT_AGENT = "pilot-agent"

# Below the directory of an Envoy: where it is started, by turns, and makes the socket of its admin
# interface. Two that run side by side have one each.
PLACES = ("0", "1")
ADMIN_NAME = "envoy.sock"
ADMIN_SOCKET = f"{PLACES[0]}/{ADMIN_NAME}"
# What the two share: sockets by which one takes over from the other. As files, since everybody may
# send to an abstract socket (unix(7)), and whoever sends there ends Envoy or takes its listeners.
SHARED_DIRECTORY = "shared"
HOT_SOCKET = f"{SHARED_DIRECTORY}/hot"
# ... and the one by which it passes the resolver of names on to istiod.
NAMES_SOCKET = f"{SHARED_DIRECTORY}/names.sock"

# Standard output is for the access log alone, as with Envoy. The operator's own flag comes later.
_LOG_APART = ("--log_target", "stderr")

# How long connections of a listener that a control plane takes away go on, without hot restart.
DRAIN_S = 5
# One that has handed over is ended so long after it was to have drained.
SHUTDOWN_MARGIN_S = 2

# With a control plane: one that takes over from another serves instead of it from then on, so it
# waits for what it is to serve, for a year. As JSON, which is YAML; it is laid over the bootstrap.
_LATER = '{"initial_fetch_timeout": "31536000s"}'
_PATIENT = f'{{"dynamic_resources": {{"cds_config": {_LATER}, "lds_config": {_LATER}}}}}'


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
    `resolver_version`: another one than before once it has to read resolv.conf(5) anew, which it
    does only when it starts.
    `remembered`: lines of its output that have this are kept when others have long gone.
    `secret_socket`: of the server that gives it its certificate; empty: files do.
    `has_unit`: it may have a unit of its own, where there is a service manager.
    `program`: what tells the file of the program from another one at its path; empty: not asked.
    `shutdown_s`: while it serves the next one can be started beside it, take over its listeners,
    and end it so long after (Envoy's hot restart); 0: it cannot. `later_argv`: what one has as
    arguments that is started so. `base_id`, `epoch`: which ones have memory in common, and how
    many of them came before; set by `launched`.
    `shown_at`: address and port of listeners that show it to whoever connects; none of those into
    which connections are captured.
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
    resolver_version: int = 0
    secret_socket: str = ""
    remembered: str = ""
    has_unit: bool = False
    shown_at: tuple[tuple[str, int], ...] = ()
    program: tuple[int, ...] = ()
    shutdown_s: int = 0
    later_argv: tuple[str, ...] = ()
    base_id: int = 0
    epoch: int = 0

    @property
    def slot(self) -> int:
        """Of the two that may run side by side, which one it is."""
        return self.epoch % len(PLACES)

    @property
    def working_directory(self) -> str:
        """Where it is started; empty: anywhere."""
        return f"{self.directory}/{PLACES[self.slot]}" if self.name == ENVOY else self.directory


def launched(spec: ProcessSpec, base_id: int, epoch: int) -> ProcessSpec:
    """Return what is started; `epoch` is one more than that of the Envoy it takes over from."""
    numbered = spec._replace(epoch=epoch)
    if spec.admin.socket:
        numbered = numbered._replace(admin=Admin(f"{numbered.working_directory}/{ADMIN_NAME}"))
    if not spec.shutdown_s:
        return numbered
    added = ("--base-id", str(base_id), "--restart-epoch", str(epoch))
    later = spec.later_argv if epoch else ()
    return numbered._replace(base_id=base_id, argv=(*spec.argv, *added, *later))


def may_succeed(before: ProcessSpec, spec: ProcessSpec) -> bool:
    """Whether a process as `spec` says can take over from one that was `launched` as `before`.

    Both have the same rights, and are started in the same way. Their programs are not compared.
    """
    is_hot = bool(before.shutdown_s and before.base_id and spec.shutdown_s)
    names = ("name", "directory", "user_uid", "user_gid", "is_net_admin", "has_unit")
    return is_hot and all(getattr(before, name) == getattr(spec, name) for name in names)


# Where the sandbox of the unit shows nothing.
_HOMES = ("/home/", "/root/", "/run/user/")


def _may_have_unit(config: model.Config, program: str) -> bool:
    """Whether the unit's sandbox shows everything that a proxy needs."""
    proxy = config.proxy
    paths = (program, proxy.envoy, config.identity.output_dir, proxy.discovery_root)
    return proxy.has_unit and not any(path and path.startswith(_HOMES) for path in paths)


# What is asked of a process or known of it, and makes it no other one.
_ASKED_OF_IT = (
    *("name", "doors", "control_plane", "listens", "admin", "remembered", "shown_at"),
    *("resolver_version", "program"),
)


def run_alike(launch: ProcessSpec, other: ProcessSpec) -> bool:
    """Whether a process that was `launched` so is what the other one asks for.

    Not asked: whether it is of the file that is at the path of its program now.
    """
    told = {name: getattr(other, name) for name in _ASKED_OF_IT}
    return launch._replace(**told) == launched(other, launch.base_id, launch.epoch)._replace(
        **told
    )


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
    program: tuple[int, ...] = (),
) -> ProcessSpec:
    """Return Envoy with a bootstrap of ours; all paths are absolute.

    `program` tells the file at `envoy` from another one.
    Below `directory` is ADMIN_SOCKET, which root without further rights cannot reach either: that
    Envoy lives is asked where anybody may, and its readiness is the word of its admin interface.
    """
    listens = config.redirection.capture_ports if config.redirection.captures else ()
    shown_at: tuple[tuple[str, int], ...] = ()
    if config.redirection.is_none:
        listens = nontransparent.listening_ports(config)
        shown_at = nontransparent.shown_at(config, facts)
    argv = [
        *_envoy_argv(config.proxy, envoy, bootstrap_file),
        *_restart_argv(config.proxy, facts, directory),
        "--concurrency",
        str(config.proxy.concurrency),
        "--drain-strategy",
        "immediate",
        # Access log lines reach the journal within a second, not ten.
        "--file-flush-interval-msec",
        "1000",
    ]
    ready = liveness.Door(ENVOY, config.proxy.status_port, "/healthz/ready")
    counters = None
    if config.proxy.istiod is not None:
        counters = liveness.Door(
            ENVOY, config.proxy.status_port, controlplane.DOOR, controlplane.MAX_ANSWER
        )
    if facts.addresses and all(address.version == 6 for address in facts.addresses):
        argv += ["--local-address-ip-version", "v6"]
    return ProcessSpec(
        name=ENVOY,
        argv=tuple(argv),
        environment=(),
        user_uid=facts.proxy_uid,
        user_gid=facts.proxy_gid,
        directory=directory,
        doors=(ready, counters) if counters is not None else (ready,),
        control_plane=counters,
        remembered=refusals.MARK if counters is not None else "",
        directories=(*PLACES, SHARED_DIRECTORY),
        admin=Admin(f"{directory}/{ADMIN_SOCKET}"),
        listens=listens,
        is_net_admin=config.redirection.is_transparent,
        has_unit=_may_have_unit(config, envoy),
        shown_at=shown_at,
        program=program,
        shutdown_s=_shutdown_s(config.proxy, facts),
        later_argv=("--config-yaml", _PATIENT) if counters is not None else (),
    )


def _shutdown_s(proxy: model.ProxySettings, facts: model.HostFacts) -> int:
    """So long after another one has taken over, Envoy is ended; 0: none can take over."""
    is_hot = proxy.restart_drain_s and facts.has_shared_memory
    return math.ceil(proxy.restart_drain_s) + SHUTDOWN_MARGIN_S if is_hot else 0


def _restart_argv(
    proxy: model.ProxySettings, facts: model.HostFacts, directory: str
) -> tuple[str, ...]:
    shutdown_s = _shutdown_s(proxy, facts)
    if not shutdown_s:
        return ("--disable-hot-restart", "--drain-time-s", str(DRAIN_S))
    return (
        *("--socket-path", f"{directory}/{HOT_SOCKET}"),
        *("--drain-time-s", str(shutdown_s - SHUTDOWN_MARGIN_S)),
        *("--parent-shutdown-time-s", str(shutdown_s)),
    )


def validate_spec(
    config: model.Config, facts: model.HostFacts, envoy: str, bootstrap_file: str
) -> ProcessSpec:
    """Return the run of Envoy that validates a bootstrap: status 0, or 1 and the reason on stderr.

    It opens no port, and needs the files of `render_sds` in their place.
    """
    return ProcessSpec(
        name="envoy (validation)",
        argv=(
            *_envoy_argv(config.proxy, envoy, bootstrap_file),
            *("--disable-hot-restart", "--mode", "validate"),
        ),
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
        argv=(binary, "proxy", *_LOG_APART, *config.proxy.agent_flags),
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
        directories=pilot.directories(config.proxy),
        links=pilot.build_links(config),
        resolver_version=facts.resolver_version if config.redirection.dns.is_captured else 0,
        secret_socket=config.proxy.secret_socket or "",
        has_unit=_may_have_unit(config, binary),
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
        # One field of ours is younger than the oldest Envoy in use (`listeners`).
        "--allow-unknown-static-fields",
        # Nobody on this host can do anything about what istiod sends, in hundreds of lines.
        *(("--skip-deprecated-logs",) if proxy.istiod is not None else ()),
    )
