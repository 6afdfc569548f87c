"""The acts of the demo, in order: each shows what happens and notes what held, and how well.

An act raises TimeoutError or LabError where something did not happen at all; the caller makes a
row of that as well. Everything said about traffic comes from captures, applications and Envoys,
not from the agents.
"""

import time
from collections.abc import Callable
from typing import Any

from tests.demo import asking, evidence, files, journal, renewal, stage

# What the agent says while it joins, in other words.
PROGRESS: dict[str, Callable[[dict[str, str]], str]] = {
    "certificate obtained": lambda f: f"certificate obtained by {f['VIA']}: {f['IDENTITY']}",
    "redirection installed and read back": lambda f: (
        "rules installed in one transaction, read back and equal"
    ),
    "redirection proven with packets": lambda f: (
        f"{f['COUNT']} expectations proven: what is captured, what is left alone"
    ),
    "proxy started": lambda f: "proxy started (Envoy)",
    "proxy ready": lambda f: "proxy ready",
    "joined the mesh": lambda f: "joined the mesh",
}
JOINED = "joined the mesh"
INSTALLED = "redirection installed and read back"
PROVEN = "redirection proven with packets"
TOUCHED = "rules changed by somebody else; putting them back"


def set_the_stage(show: asking.Show) -> None:
    """A cluster, two hosts, an application on each; a request that anybody can read."""
    place = show.place
    show.out.chapter(
        "1  Two hosts, and no mesh yet",
        "Each host is a network namespace of this machine: it has an address, rules and processes"
        " of its own. A cable joins it to the cluster's network.",
    )
    place.prepare()
    place.start_cluster()
    show.out.step(f"cluster  {stage.CA}   demo certificate authority, speaks Istio's protocol")
    place.add_member("a", [stage.PORT])
    show.out.step(f"host a   {show.a.address}  an application of user {stage.USER}")
    place.add_member("b", [stage.PORT, stage.LATER_PORT])
    show.out.step(
        f"host b   {show.b.address}  the same, on ports {stage.PORT} and {stage.LATER_PORT}"
    )
    asked = asking.ask(show, stage.PORT)
    first = asked.wire.payload.partition(b"\r\n")[0].decode("latin-1")
    show.out.note(f'on b\'s cable, for anybody to read: "{first}"')
    is_readable = asked.is_answered and asked.wire.shows(asking.SECRET)
    show.held("without a mesh the request can be read", is_readable, f'"{first}"')


def join(show: asking.Show) -> None:
    """Two files each; both agents start and become members."""
    show.out.chapter(
        "2  Joining",
        "What a host is told are two small files, a token and the root to trust at first contact."
        " The agent does the rest: it proves with packets that it captures what it must, before"
        " the proxy starts.",
    )
    for member in (show.a, show.b):
        member.host.write_cluster(**files.cluster_env())
        own = files.sidecar_env(member, stage.PORT)
        member.host.write_sidecar(files.render(own))
    show.out.step(f"files written below {show.place.directory}")
    show.out.listing("cluster.env, the same on both hosts", files.explain(files.cluster_env()))
    show.out.listing("sidecar.env of b", files.explain(files.sidecar_env(show.b, stage.PORT)))
    mark = show.place.journal.mark()
    began = {member.label: show.place.start_agent(member) for member in (show.a, show.b)}
    show.out.step("agents started on both: istio-hostagent run")
    times: dict[str, float] = {}
    proven: dict[str, str] = {}

    def tell(line: journal.Line) -> None:
        words = PROGRESS.get(line.message)
        if words is None:
            if line.text.startswith(("error: ", "warning: ")):
                show.out.step(f"{line.label}: {line.text}", at=line.at)
            return
        if line.message == PROVEN:
            proven[line.label] = line.fields["COUNT"]
        if line.message == JOINED:
            times[line.label] = line.at - began[line.label]
        after = f", {times[line.label]:.2f} s after its start" if line.message == JOINED else ""
        show.out.step(f"{line.label}: {words(line.fields)}{after}", at=line.at)

    show.place.journal.wait_for(
        "both hosts join",
        lambda _: len(times) == len(began),
        since=mark,
        timeout_s=120.0,
        on_line=tell,
    )
    in_mesh: list[bool] = []

    def are_in_mesh() -> bool:
        in_mesh[:] = [member.host.status()["in_mesh"] for member in (show.a, show.b)]
        return all(in_mesh)

    evidence.wait_until("both are in the mesh", are_in_mesh)
    figure = ", ".join(f"{label} in {times[label]:.2f} s" for label in sorted(times))
    show.held("two files, and each host joins by itself", all(in_mesh), figure)
    counts = ", ".join(f"{label}: {proven.get(label, '0')}" for label in sorted(began))
    is_proven = all(proven.get(label, "0") != "0" for label in began)
    show.held(
        "rules proven with packets before the proxy starts", is_proven, f"{counts} expectations"
    )


def meet(show: asking.Show) -> None:
    """The same request again, and who saw what."""
    show.out.chapter("3  The same request, as members of the mesh")
    mark = show.place.journal.mark()
    asked = asking.ask(show, stage.PORT)
    line = show.place.journal.wait_for(
        "b's Envoy logs the connection",
        lambda line: line.label == "b" and line.access.get("direction") == "inbound",
        since=mark,
        timeout_s=60.0,
    )
    peer = str(line.access.get("peer"))
    show.out.note(asking.describe_wire(asked.wire))
    show.out.step("b's Envoy wrote down who it was:", at=line.at)
    show.out.note(f"peer {peer}, by {line.access.get('downstream_tls')}")
    show.out.note(f"from {line.access.get('source')} to {line.access.get('destination')}")
    show.held("b knows who asks", asked.is_answered and peer == show.a.spiffe_id, peer)
    show.held(
        "the request cannot be read on the wire",
        asked.is_hidden,
        asked.judged(f"{asked.wire.packets} packets, {asked.wire.records} TLS records"),
    )


def change_a_file(show: asking.Show) -> None:
    """One more port for b: by a rename, with nothing restarted."""
    show.out.chapter("4  A changed file takes effect by itself")
    before = show.b.host.status()
    mark = show.place.journal.mark()
    own = files.sidecar_env(show.b, stage.PORT, stage.LATER_PORT)
    began = time.monotonic()
    show.b.host.write_sidecar(files.render(own))
    show.out.step(f"b's sidecar.env now says ISTIO_INBOUND_PORTS={own['ISTIO_INBOUND_PORTS']}")
    proven = show.place.journal.said("b", PROVEN, since=mark)
    took = proven.at - began
    count = proven.fields["COUNT"]
    show.out.step(f"b: installed, and {count} expectations proven with packets", at=proven.at)
    asked = asking.ask(show, stage.LATER_PORT)
    show.out.note(asking.describe_wire(asked.wire))
    after = show.b.host.status()
    is_same = identities(before) == identities(after)
    words = "agent, proxy and certificate are the ones from before"
    show.out.step(f"b: {words}" if is_same else f"NOT so: {words}")
    show.held(
        "a changed file takes effect, nothing restarts",
        is_same and asked.is_hidden,
        asked.judged(f"{took:.2f} s from rename to proven"),
    )


def flush_the_rules(show: asking.Show) -> None:
    """Somebody empties the firewall of a."""
    show.out.chapter(
        "5  Somebody flushes the rules",
        "As a systemd service the agent owns its rules and a flush leaves them alone. Here it runs"
        " without, so it has to see that they are gone and put them back.",
    )
    mark = show.place.journal.mark()
    began = time.monotonic()
    show.a.namespace.run(["nft", "flush", "ruleset"], check=True)
    touched = show.place.journal.said("a", TOUCHED, since=mark)
    culprit = touched.fields.get("CULPRIT", "nobody")
    back = show.place.journal.said("a", INSTALLED, since=mark)
    proven = show.place.journal.said("a", PROVEN, since=mark)
    show.out.step("on a: nft flush ruleset", at=began)
    show.out.step(f"a: noticed; it was {culprit}", at=touched.at)
    show.out.step("a: rules back, read back and equal", at=back.at)
    show.out.step(f"a: {proven.fields['COUNT']} expectations proven again", at=proven.at)
    asked = asking.ask(show, stage.PORT)
    show.out.note(asking.describe_wire(asked.wire))
    show.held(
        "flushed rules come back, the culprit is named",
        culprit.startswith("nft[") and asked.is_hidden,
        asked.judged(
            f"back in {(back.at - began) * 1000:.0f} ms, proven in"
            f" {(proven.at - began) * 1000:.0f} ms; {culprit}"
        ),
    )


def leave(show: asking.Show) -> None:
    """Both agents are told to stop; the network is as it was."""
    show.out.chapter("7  Leaving the mesh")
    began = time.monotonic()
    statuses = [member.host.stop() for member in (show.a, show.b)]
    took = time.monotonic() - began
    tables = show.a.host.tables() | show.b.host.tables()
    left = ", ".join(sorted(tables)) or "no rule is left"
    show.out.step(f"both agents were told to stop: {left}")
    asked = asking.ask(show, stage.PORT)
    is_held = not tables and not any(statuses) and asked.is_answered
    show.held("a host that leaves gets its network back", is_held, f"both in {took:.2f} s")


Act = Callable[[asking.Show], None]
ACTS: tuple[tuple[str, Act], ...] = (
    ("two hosts without a mesh", set_the_stage),
    ("joining", join),
    ("a request between members", meet),
    ("a changed file", change_a_file),
    ("flushed rules", flush_the_rules),
    ("renewal under traffic", renewal.renew_under_traffic),
    ("leaving", leave),
)


def identities(status: dict[str, Any]) -> tuple[object, ...]:
    """What would be another one after a restart."""
    return status["pid"], status["proxy"]["pid"], status["certificate"]["serial"]
