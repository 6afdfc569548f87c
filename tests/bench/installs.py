"""Rules in and out of the kernel, in this process, beside nft(8) and its library.

Everything happens in one thread that has entered a namespace of its own. Ours and the peers take
turns, starting from the same state; the first round warms everything up and does not count.
What is timed of ours goes from the rule set as a value to the kernel's confirmation: planning and
encoding, `::6/128` on lo where it is missing, and both tables. It is the CPU of the calling thread,
the kernel's work for it included: what it takes when nobody else wants the processor. (Wall time
is the same on a quiet machine; on a busy one the ratios of it were wrong by a factor of four.)

Somebody listens to changes of nf_tables all the time, as an agent does: the kernel then makes a
message of each rule and element, whoever commits. It does so too if the listener is in another
namespace (net/netlink/af_netlink.c, netlink_has_listeners), so that without ours the figures would
depend on who else is on the machine. Very many networks: `networks`.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from istio_hostagent.agent import reconcile
from istio_hostagent.config import build
from istio_hostagent.config import model as config
from istio_hostagent.errors import HostAgentError
from istio_hostagent.host import changes, facts, nftables
from istio_hostagent.redirect import drift, model, nft, plan, policy
from tests.lab import netns

from . import budgets, cost, files, libnftables, rows

STANDARD_KEYS = ("install", "replace", "read", "repair")
ROUNDS = 41

Times = defaultdict[str, list[float]]
NFT_PROCESS = "nft -f, a process"


def build_rules(text: str, host: config.HostFacts) -> model.Ruleset:
    """The rule set that a cluster.env of this text means, by the product's own parser."""
    nobody = config.Trust(is_root_only=True)
    layers = [
        config.Layer("hostagent.env", None, nobody),
        config.Layer("cluster.env", text.encode(), nobody),
        config.Layer("sidecar.env", None, nobody),
    ]
    outcome = build.build_config(layers, host)
    if outcome.config is None:
        raise cost.NotMeasured("; ".join(map(str, outcome.problems)))
    return policy.build_ruleset(outcome.config.redirection, host)


def measure_standard(directory: Path) -> dict[str, rows.Result]:
    """Rows install, replace, read, repair. Raises NotMeasured, LabError."""
    with netns.Namespace("bench") as namespace:
        times = namespace.inside(lambda: _standard_rounds(directory))
    tables = (
        "main and guard table; the peers get the same rules as text, already made; a warm process:"
        f" its first install took {times['first install'][0]:.1f} ms"
    )
    return {
        "install": _result(times, "install", (tables,)),
        "replace": _result(times, "replace"),
        "read": rows.make_result(
            times["read"],
            {"nft list, a process, no comparison": times["nft read"]},
        ),
        "repair": rows.make_result(times["repair"]),
    }


def probe(directory: Path) -> config.HostFacts:
    return facts.probe_facts(state_dir=str(directory), runtime_dir=str(directory))


def _result(times: Times, name: str, notes: tuple[str, ...] = ()) -> rows.Result:
    peers = {budgets.LIBNFTABLES: times[f"library {name}"], NFT_PROCESS: times[f"nft {name}"]}
    return rows.make_result(times[name], peers, notes)


def _standard_rounds(directory: Path) -> Times:
    host = probe(directory)
    first, second = (
        build_rules(files.keys_text(keys), host) for keys in (files.STANDARD, files.CHANGED)
    )
    listings = [directory / "first.nft", directory / "second.nft"]
    texts = [render(rules) for rules in (first, second)]
    for file, text in zip(listings, texts, strict=True):
        file.write_text(text)
    listener = changes.ChangeMonitor()
    kernel, library = nftables.NftKernel(is_owner=False), libnftables.Library()
    times: Times = defaultdict(list)
    try:
        for number in range(ROUNDS + 1):
            clear(kernel)
            clock(times, "install", lambda: change(kernel, first, model.Observed()))
            clock(times, "read", lambda: must_be(kernel, first))
            seen = kernel.observe()
            clock(times, "replace", lambda seen=seen: change(kernel, second, seen))  # type: ignore[misc]
            clock(times, "repair", lambda: reconcile.reconcile(first, kernel))
            clear(kernel)
            for name, file in zip(("nft install", "nft replace"), listings, strict=True):
                times[name].append(cost.run([cost.NFT, "-f", str(file)]).cpu_ms)
            times["nft read"].append(cost.run([cost.NFT, "list", "ruleset"]).cpu_ms)
            clear(kernel)
            for name, text in zip(("library install", "library replace"), texts, strict=True):
                clock(times, name, lambda text=text: library.run(text))  # type: ignore[misc]
            _forget_first(times, number)
    finally:
        clear(kernel)
        library.close()
        kernel.close()
        listener.close()
    return times


def clock(times: Times, name: str, act: Callable[[], object]) -> None:
    """Add the CPU of the calling thread, in ms."""
    began = time.thread_time_ns()
    act()
    times[name].append((time.thread_time_ns() - began) / 1e6)


def _forget_first(times: Times, number: int) -> None:
    if number == 0:
        first = times["install"]
        times.clear()
        times["first install"] = first


def change(kernel: nftables.NftKernel, wanted: model.Ruleset, seen: model.Observed) -> None:
    kernel.apply(plan.make_plan(wanted, seen, owned=False))


def must_be(kernel: nftables.NftKernel, wanted: model.Ruleset) -> None:
    if found := drift.find_drift(wanted, kernel.observe()):
        raise cost.NotMeasured(f"the rules are not as wanted: {found[0]}")


def clear(kernel: nftables.NftKernel) -> None:
    try:
        reconcile.reconcile(model.Ruleset(), kernel)
    except HostAgentError as error:
        raise cost.NotMeasured(f"the rules cannot be taken out: {error}") from error


def render(rules: model.Ruleset) -> str:
    return "".join(nft.render_nft(table) for table in rules.tables)
