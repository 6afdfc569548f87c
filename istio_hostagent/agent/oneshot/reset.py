"""`reset`: nothing is left by which two machines made of one disk would be the same host.

What the agent has made goes: its state directory, its certificates in OUTPUT_CERTS, what it has
written for other programs. What an operator has put there before comes back, and that is a
credential of this host, too, like its token: it goes with `takes_credentials`, else it is named.
The rules are left alone, since an image may be reset from another machine; so are agents with a
name, of which each has a reset of its own.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

from ...config import model
from ...errors import AgentRunning, ChildFailed, NotPermitted, describe
from ...host import (
    certificatefiles,
    control,
    emptying,
    instances,
    instancestate,
    layers,
    mounts,
    outputfiles,
    processes,
)
from ...host import sights as seen
from ...host.answers import forgotten, outputs
from . import configuration

_TIMEOUT_S = 20.0
_WORKER = "forgotten"
_OUTPUT = ".output"


def perform(
    environment: Mapping[str, str], reading: layers.Reading, *, takes_credentials: bool
) -> Iterator[str]:
    """Remove it and give a line for each; raises AgentRunning, NotPermitted, ChildFailed."""
    if os.geteuid() != 0 and not instances.is_users():
        raise NotPermitted("this verb needs root")
    lock = control.Lock()
    try:
        if not lock.take():
            raise AgentRunning("another agent or verb works in this network namespace")
        if instances.find_earlier_state(environment):
            instancestate.settle(environment)
        yield from _perform(environment, reading, takes_credentials=takes_credentials)
    finally:
        lock.close()


def _perform(
    environment: Mapping[str, str], reading: layers.Reading, *, takes_credentials: bool
) -> Iterator[str]:
    loaded, facts, sources = configuration.load(environment, reading)
    user = processes.User(facts.proxy_uid, facts.proxy_gid)
    yield from _give_back(facts.state_dir, user)
    yield from _remove_outputs(os.path.join(facts.state_dir, "outputs"))
    try:
        others = () if instances.own() else instancestate.find_others(facts.state_dir)
        for name in emptying.empty(facts.state_dir, kept={each.split("/")[0] for each in others}):
            yield f"removed {facts.state_dir}/{name}"
    except OSError as error:
        raise NotPermitted(f"{error.filename}: {describe(error)}") from error
    for each in others:
        name = os.path.basename(each)
        yield f"left {facts.state_dir}/{each} (istio-hostagent --instance {name} reset removes it)"
    if loaded.config is None:
        if loaded.problems and takes_credentials:
            raise configuration.unusable(loaded, sources)
        yield "no configuration says where credentials of this host lie: they are left alone"
        return
    paths = _find_credentials(loaded.config)
    if takes_credentials:
        yield from _remove_credentials(paths, user)
    else:
        yield from (f"left {path} (--all removes it)" for path in filter(emptying.is_there, paths))


def _give_back(state_dir: str, user: processes.User) -> Iterator[str]:
    """Our certificates, in every directory that they are in."""
    found = certificatefiles.CertificateFiles(state_dir, seen.Sights(mounts.Mounts()))
    try:
        stores = found.find_stores()
    except FileNotFoundError:
        return
    for store, output_dir in stores:
        if not emptying.is_directory(output_dir):
            continue
        request = {"op": "release", "output_dir": output_dir, "store_dir": store}
        answer = processes.Worker("certificate", request, user=user).run(_TIMEOUT_S)
        if answer.error is not None:
            raise ChildFailed("worker certificate", "failed", (answer.error.text,))
        yield f"removed our certificate from {output_dir}"


def _remove_outputs(record: str) -> Iterator[str]:
    """What was written for other programs and still is as it was written."""
    if not emptying.is_directory(record):
        return
    worker = processes.Worker("outputs", {"record": record, "kept": []}, user=None)
    answer: outputs.Outputs = worker.run(_TIMEOUT_S)
    yield from (f"removed {path}" for path in answer.removed)
    yield from (f"left: {text}" for text in answer.left)
    if answer.failed:
        raise NotPermitted("; ".join(answer.failed))
    # Of these a killed worker has not written down how it left them.
    for path in filter(emptying.is_there, emptying.find_noted(record, _OUTPUT)):
        yield f"left {path}: it is not known whether this agent has written it"


def _find_credentials(config: model.Config) -> tuple[str, ...]:
    """What an operator may have put there; of certificates the key makes the host."""
    identity, consul = config.identity, config.registry.access
    places = dict.fromkeys((identity.output_dir, identity.provisioned_dir))
    if identity.mounted_dir:
        places[identity.mounted_dir] = None
    names = (outputfiles.KEY, "cert-chain.pem")
    pairs = [os.path.join(place, name) for place in places for name in names]
    of_consul = (consul.token_file, consul.key, consul.certificate)
    return tuple(filter(None, (identity.token_file, *pairs, *of_consul)))


def _remove_credentials(paths: Sequence[str], user: processes.User) -> Iterator[str]:
    """As istio-proxy, since a file of his may name them; what is root's is left for root."""
    request = {"remove": list(paths)}
    found: tuple[forgotten.Forgotten, ...]
    found = processes.Worker(_WORKER, request, user=user).run(_TIMEOUT_S)
    left = []
    for path, outcome in zip(paths, found, strict=True):
        if outcome.is_removed or (outcome.error and emptying.remove_of(path, user.uid)):
            yield f"removed {path}"
        elif outcome.error:
            left.append(f"{path} ({outcome.error})")
    if left:
        raise NotPermitted(
            f"istio-proxy may not remove {', '.join(left)}", hint="remove what is left as root"
        )
