"""Everything that can happen to a host, explored: no state breaks an invariant, and none is an end.

`world` says what is collapsed. The starts are hosts that never joined and hosts that have, with
good, bad, changed and absent files; by "killed" and "boot" every start after a kill in any state
that is reached is among the states, too. A fault is whatever does not go well: a kill, a refusal, a
changed file, a full disk. `make test` explores everything with up to two faults on the way (one
where the service manager owns the rules, a worker changes them and answers late or never, or there
is another agent), in every order of all that goes well; `make soak` with two of them everywhere.
Each fault more has ten times the states: two have 800 000, which take 1.6 GB.
"""

import collections
from collections.abc import Iterator

import pytest

from istio_hostagent.lifecycle import life as lives
from istio_hostagent.lifecycle import predecessor as predecessors
from istio_hostagent.lifecycle import redirection as redirections
from istio_hostagent.lifecycle import steps
from istio_hostagent.lifecycle.phase import STAYING, Phase
from istio_hostagent.supervise import child as children
from istio_hostagent.supervise import validation as validations
from tests.lab import soak

from .explore import Graph, explore
from .world import NOW, PORTS, A, Edge, World

pytestmark = pytest.mark.soak
FAULTS = 2
NAMES = tuple(step.name for step in steps.Step)


def step_of(edge: Edge) -> str:
    """The name of the step that an edge performs, or nothing."""
    word = edge.name.split(" ")[0]
    return word if word in NAMES else ""


def check(world: World, edge: Edge) -> None:
    """What must hold for every transition (design 2)."""
    after, step = edge.world, step_of(edge)
    lived, now_is = world.life, world.situation()
    if step == "START":
        # Invariant 1: proof before service.
        assert now_is.redirection.is_shown, edge
        assert world.kernel == now_is.redirection.desired, edge
        assert now_is.is_complete(NOW), edge
        # Two proxies cannot share their ports.
        assert not world.is_other_there, edge
    if step == "APPLY":
        # Invariant 2: a host that has not joined gets rules only when all else is there. Once the
        # agent before is being ended they come back if they were flushed, whatever has gone since:
        # that one captures no more.
        is_committed = now_is.predecessor.is_changing and lived.may_have_rules
        assert lived.is_joined or now_is.is_complete(NOW) or is_committed, edge
        # Invariant 4: the mark stands before the rules.
        assert lived.disk.is_joined or lived.disk.is_attempting, edge
        # Invariant 11: what a host that has joined keeps goes in whoever has its port.
        is_kept = lived.phase in (Phase.JOINED, Phase.GOING_BACK)
        assert is_kept or now_is.holding.is_held or world.is_other_there, edge
    if step in ("APPLY", "WITHDRAW", "START", "PROVE"):
        # One change of the rules at a time, and nothing is built on one that is under way.
        assert not now_is.redirection.is_changing, edge
    if step == "ABANDON":
        # Only what is late is given up, or what leaving makes useless.
        assert now_is.redirection.is_overdue(NOW.monotonic) or lived.phase is Phase.LEAVING, edge
    if step == "LET_GO" and world.kernel:
        assert PORTS[world.kernel] & world.holding.held <= after.holding.held, edge
    if step == "WITHDRAW":
        # Invariant 8: a host that has joined keeps its rules until it is told to leave.
        assert not lived.is_joined, edge
        # What somebody else captured before does not go around while it is not back.
        is_back = world.is_other_there or not world.is_held
        assert is_back or lived.phase is Phase.LEAVING, edge
    if lived.disk.is_joined and not after.life.disk.is_joined:
        assert lived.phase is Phase.LEAVING, edge
    if step == "SAVE_ACCEPTED" and after.life.disk.accepted != lived.disk.accepted:
        # Invariant 3: what is come back to has worked.
        assert now_is.is_whole(NOW), edge
        assert world.kernel == now_is.redirection.desired, edge
    if step == "FORGET_REFUSED":
        # Invariant 3: what did not hold is known until files have been read that say otherwise.
        assert lived.offer.is_read, edge
    if step == "CONFIGURE" and lived.disk.accepted is not None and lived.phase is Phase.TRYING:
        # Nothing that has not been validated is near a proxy that works.
        assert lived.in_force is not None, edge


def check_state(world: World) -> None:
    """What must hold in every state."""
    disk = world.life.disk
    if world.kernel:
        # Invariant 4: whatever is killed, the next start knows that rules may be in.
        assert disk.is_joined or disk.is_attempting, world
    if world.life.phase in STAYING:
        assert disk.is_joined, world
    if world.life.phase is Phase.JOINING and world.kernel:
        # Invariant 11: nobody else can get what is captured.
        is_taken_over = world.is_other_there or world.is_held
        assert is_taken_over or PORTS[world.kernel] <= world.holding.held, world
    if world.life.phase is Phase.TRYING:
        assert disk.accepted is not None, world


def check_waiting(world: World) -> None:
    """What must hold where the agent waits: something is due, or an event is awaited."""
    lived, now_is = world.life, world.situation()
    is_due = lives.deadline(lived, now_is, NOW) is not None
    # What is not answered in time is given up, not waited for.
    rules = now_is.redirection
    assert not rules.is_changing or rules.pending_until_at > NOW.monotonic, world
    if lived.phase is Phase.LEAVING:
        assert is_due or not now_is.redirection.is_changing, world
        return
    if lived.is_joined and lived.disk.is_mark_gone:
        # Invariant 8: nobody takes a host out by removing its mark.
        assert lived.disk.retry_at > NOW.monotonic, world
    if lived.phase is Phase.OUT and not lived.may_have_rules and not lived.disk.is_attempting:
        # Invariant 2: a host that could not join has its network back.
        assert not world.kernel, world
    under_way = (
        world.redirection.is_proving
        or world.other.is_changing
        or world.rotation.is_asking
        or world.validation.check is validations.Check.RUNNING
        or lived.rollout.validation.check is validations.Check.RUNNING
        or world.child.state not in (children.State.IDLE, children.State.BACKOFF)
    )
    person = (
        lived.in_force is None
        or not world.has_program
        or world.validation.check is validations.Check.BAD
        or world.other.has_failed
    )
    assert is_due or under_way or person, world
    if now_is.is_whole(NOW) and lived.phase in (Phase.JOINED, Phase.TRYING):
        assert lived.is_in_mesh(now_is, NOW) or lived.rollout.is_identity_first, world


def starts(
    *, is_owner: bool, is_worker: bool = False, is_other_there: bool = False
) -> Iterator[World]:
    """Where a host's life may begin."""
    joined = lives.Disk(is_joined=True, has_guard=True, accepted=A)
    some = World(lives.begin(lives.Disk()), is_owner=is_owner, is_worker=is_worker)
    if is_other_there:
        other = predecessors.Predecessor(predecessors.State.RUNNING)
        some = some._replace(is_other_there=True, other=other)
    for files in ("empty", "A"):
        yield some._replace(files=files)
    for files in ("A", "B", "bad"):
        for kernel in ("", "A"):
            yield some._replace(life=lives.begin(joined), files=files, kernel=kernel)


@pytest.fixture(
    scope="module", params=["un-owned rules", "owned rules", "rules of a worker", "another agent"]
)
def graph(request: pytest.FixtureRequest) -> Graph:
    """The whole graph; its size is printed."""
    is_owner = request.param == "owned rules"
    is_worker = request.param == "rules of a worker"
    is_other_there = request.param == "another agent"
    is_reduced = (is_owner or is_worker or is_other_there) and not soak.IS_SOAKING
    faults = FAULTS - is_reduced
    begin = starts(is_owner=is_owner, is_worker=is_worker, is_other_there=is_other_there)
    found = explore(begin, check, faults=faults)
    count = sum(map(len, found.edges))
    phases = collections.Counter(world.life.phase.value for world in found.states)
    print(
        f"\nlifecycle, {request.param}, faults on the way: {faults};"
        f" {len(found.states)} states, {count} transitions; {dict(phases)}"
    )
    return found


def test_no_state_breaks_an_invariant(graph: Graph) -> None:
    for world in graph.states:
        if world.is_alive:
            check_state(world)


def test_the_agent_never_waits_for_nothing(graph: Graph) -> None:
    for number, row in enumerate(graph.edges):
        is_waiting = any(name == "killed" for name, _, _ in row)
        if is_waiting:
            check_waiting(graph.states[number])


def test_from_everywhere_a_host_with_good_files_comes_into_the_mesh(graph: Graph) -> None:
    """No dead end: when from now on all goes well, the host is in the mesh again."""
    reverse: list[list[int]] = [[] for _ in graph.states]
    for number, row in enumerate(graph.edges):
        for _name, target, is_kind in row:
            if is_kind:
                reverse[target].append(number)
    good = [
        number
        for number, world in enumerate(graph.states)
        if world.is_alive and world.life.is_in_mesh(world.situation(), NOW)
    ]
    seen = set(good)
    queue = collections.deque(good)
    while queue:
        for source in reverse[queue.popleft()]:
            if source not in seen:
                seen.add(source)
                queue.append(source)
    lost = [
        number
        for number, world in enumerate(graph.states)
        if graph.edges[number] and number not in seen and not _waits_for_a_person(world)
    ]
    assert not lost, (graph.way_to(lost[0]), graph.states[lost[0]])


def _waits_for_a_person(world: World) -> bool:
    """Files that make nothing, on a host where nothing has worked."""
    has_files = world.files in ("A", "B") or world.life.disk.accepted is not None
    return not has_files or not world.has_program


def test_every_phase_and_every_step_is_reached(graph: Graph) -> None:
    assert {world.life.phase for world in graph.states} == set(Phase)
    names = {name.split(" ")[0] for row in graph.edges for name, _, _ in row}
    host = graph.states[0]
    # What the service manager owns it also ends, with the mark.
    missing = {"UNMARK_JOINED" if host.is_owner else "STORE_SOCKET"}
    # Of what the proxy shows nothing else depends (`world`).
    missing |= {"ASK_SERVED", "RELOAD_SERVED", "REPLACE_PROXY"}
    if not host.is_other_there:
        missing |= {"PREPARE", "TAKE_OVER", "LET_IN", "GIVE_BACK"}
    # What is done at once is never given up.
    assert set(NAMES) - names == missing | (set() if host.is_worker else {"ABANDON"})
    assert redirections.Rules.PROVEN in {world.redirection.rules for world in graph.states}
