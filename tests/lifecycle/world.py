"""A host and everything that can happen to it, stepped by the shipped functions of `lifecycle`.

The world beside the agent is small: which rules the kernel has, which proxy runs, what the files
say. Each step that `decide.advance` names is performed in every way it can end, and between any
two steps the agent may be killed. While no step is named, everything else may happen.

What is collapsed, so that the graph is finite and small enough (`collapse`):

- Instants are due (0) or not (`LATER`); "time passes" makes one of those in the future due, each
  on its own. Both clocks stand at `NOW`. An instant that nothing waits for counts as due.
- Counters of failures: none or some; the ends of a proxy: not too many, or too many, which any
  end may be. An error text is there or not. Jitter is 0.
- Configurations: A and B, which differ in identity, redirection and proxy. What has worked, or
  else what is in force, is called A: worlds in which the names are exchanged are the same.
- Renewal while a certificate is held changes nothing here; one that has lapsed counts as none.
- Rules proven in part count as proven. Repairs in a row are not counted; the pause of a fight is
  explored by that of a refusal.
- A failed attempt whose pause is over counts as none.
- Between two rollouts nobody asks how often a proxy has ended, only whether it is late.
- The stop deadline of a proxy is always ahead: SIGKILL changes nothing but the time it takes.
- A look at the rules takes no time: a drift that it finds late is one that comes late. Where rules
  are changed at once (not `is_worker`), a change under way is not a state.
- A file that somebody removes is noticed at once. One that is gone when the agent is killed is
  there again: that it was not is the start of a host that has left.
- What the proxy shows is not known. Showing another certificate keeps a host from being in the
  mesh by its words, like a proxy that is not ready, and what is done about it is the end of a
  process or nothing; `tests/agent` has it.
- Queries for names are answered, or not captured: that they are not keeps a host from being in the
  mesh by its words, too.
- A proxy that outlives its agent (where the service manager owns the rules) is one that starts, or
  has ended meanwhile: whether it was ready, or told to end, its end and its answers say.
- The next proxy takes over from one that is ready, always; that it cannot is an ordinary restart,
  which one that is not ready has. What was ready and drains ends by itself, whenever that is.
- A reading of the files takes no time, but for the first one: one that does is a change of files
  that comes later. One that comes to nothing matters only as long as nothing has been read.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from istio_hostagent.identity import rotation as rotations
from istio_hostagent.lifecycle import decide
from istio_hostagent.lifecycle import holding as holdings
from istio_hostagent.lifecycle import life as lives
from istio_hostagent.lifecycle import predecessor as predecessors
from istio_hostagent.lifecycle import redirection as redirections
from istio_hostagent.lifecycle.holding import Holding
from istio_hostagent.lifecycle.life import Life, Offer, Revision
from istio_hostagent.lifecycle.phase import Phase
from istio_hostagent.lifecycle.predecessor import Predecessor
from istio_hostagent.lifecycle.redirection import Pending, Proof, Redirection
from istio_hostagent.lifecycle.situation import Now, Situation
from istio_hostagent.lifecycle.steps import ON_DISK, Step
from istio_hostagent.supervise import child as children
from istio_hostagent.supervise import validation as validations
from istio_hostagent.supervise.child import Child
from istio_hostagent.supervise.validation import Validation

NOW = Now(1000.0, 1000.0)
LATER = 5000.0
ERROR = "no"


class Config(NamedTuple):
    """A configuration as far as deciding looks into it."""

    redirection: str
    identity: str
    proxy: str


A = Revision("a", Config("A", "A", "A"))
B = Revision("b", Config("B", "B", "B"))
PORTS = {"A": frozenset({1}), "B": frozenset({2})}  # where what is captured arrives
EMPTY, BAD = Offer(None, is_empty=True), Offer(None, is_empty=False)
NO_ATTEMPT, PAUSED = lives.Attempt(), lives.Attempt(1, LATER, ERROR)
HOLDING = rotations.Rotation(
    is_configured=True,
    held=rotations.Report("id", "", 0.0, LATER, 0.0),
    has_looked=True,
    next_at=LATER,
)
OFFERS = {"empty": EMPTY, "bad": BAD, "A": Offer(A, is_empty=False), "B": Offer(B, is_empty=False)}


class World(NamedTuple):
    """One host at one moment."""

    life: Life
    redirection: Redirection = Redirection()
    holding: Holding = Holding()
    rotation: rotations.Rotation = rotations.Rotation()
    child: Child = Child()
    validation: Validation = Validation()
    files: str = "empty"
    has_program: bool = True
    kernel: str = ""  # whose rules are in; empty: none
    desired_proxy: str = ""  # whose proxy is configured
    running: str = ""  # whose proxy was started last, while its child is not idle
    before: str = ""  # whose is the other one, from which that takes over
    is_taken_on: bool = False  # it was started by an earlier agent
    is_owner: bool = False
    is_worker: bool = False  # the rules are changed by a worker, which answers later or never
    asked: str = ""  # whose rules it puts in, while it changes them; empty: none
    other: Predecessor = Predecessor()
    is_other_there: bool = False  # the service of another agent runs
    is_held: bool = False  # new connections are held
    is_alive: bool = True  # the agent runs
    is_hard: bool = True  # the disk may be full, and the proxy's program come and go

    def situation(self) -> Situation:
        """As the agent's parts would report it."""
        is_running = self.child.state is not children.State.IDLE
        accepted = self.life.disk.accepted
        return Situation(
            redirection=self.redirection,
            holding=self.holding,
            predecessor=self.other,
            rotation=self.rotation,
            child=self.child,
            validation=self.validation,
            has_program=self.has_program,
            is_outdated=is_running and self.running != self.desired_proxy,
            # A and B differ in their ports.
            is_elsewhere=is_running and self.running != self.desired_proxy,
            must_wait=self.child.is_blocked and self._needs_another,
            is_new_build=accepted is not None and accepted.config.proxy != self.desired_proxy,  # type: ignore[attr-defined] # our Config
            is_owner=self.is_owner,
        )

    @property
    def _needs_another(self) -> bool:
        """Whether what is to come into force needs another proxy."""
        candidate = self.life.rollout.candidate
        return candidate is not None and candidate.config.proxy != self.desired_proxy  # type: ignore[attr-defined] # our Config


class Edge(NamedTuple):
    """One thing that can happen, and the world after it; `is_kind`: it is how things go well."""

    name: str
    world: World
    is_kind: bool


def collapse(world: World) -> World:
    """The representative of all worlds that differ only in what is collapsed."""
    lived = world.life
    disk = lived.disk
    if disk.last_error:
        disk = disk._replace(last_error=ERROR, retry_at=_at(disk.retry_at))
    attempt = lived.attempt
    is_paused = attempt.retry_at > NOW.monotonic
    rollout = lived.rollout
    refusal = lived.refusal
    if refusal is not None:
        retry_at = None if refusal.retry_at is None else _at(refusal.retry_at)
        refusal = refusal._replace(reason=ERROR, retry_at=retry_at)
    lived = lived._replace(
        disk=disk,
        refusal=refusal,
        attempt=PAUSED if is_paused else NO_ATTEMPT,
        rollout=rollout._replace(
            retries=0,
            validation=_collapse_validation(rollout.validation),
            begin_at=_at(rollout.begin_at) if rollout.candidate is not None else 0.0,
            until_at=None if rollout.until_at is None else _at(rollout.until_at),
        ),
    )
    files = world.files
    if disk.accepted is not None and files == "empty":
        files = "bad"
    found = world._replace(
        files=files,
        life=lived,
        redirection=_collapse_redirection(world.redirection, lived),
        asked=world.asked if world.redirection.is_changing else "",
        holding=_collapse_holding(world.holding),
        other=_collapse_other(world.other),
        rotation=_collapse_rotation(world.rotation),
        child=_collapse_child(world.child, lived.phase),
        validation=_collapse_validation(world.validation),
        running="" if world.child.state is children.State.IDLE else world.running,
        before=world.before if world.child.is_handing_over else "",
        is_taken_on=world.is_taken_on and world.child.state is not children.State.IDLE,
    )
    found = _without_idle_parts(found)
    first = disk.accepted or found.life.in_force
    return found if first is None or first is A else _exchange(found)


def _without_idle_parts(world: World) -> World:
    """Of a host that is leaving or out, nobody looks at most of what its parts were doing."""
    lived = world.life
    is_clean = not (lived.may_have_rules or lived.disk.is_attempting or world.kernel)
    is_idle = world.child.state is children.State.IDLE and not world.redirection.is_proving
    is_idle = is_idle and not world.redirection.is_changing
    red = world.redirection
    change = Redirection(
        pending=red.pending,
        pending_until_at=red.pending_until_at,
        is_pending_overtaken=red.is_pending_overtaken,
        is_removed=red.is_removed,
    )
    if lived.phase is Phase.LEAVING:
        kept = Life(
            phase=lived.phase,
            disk=lived.disk,
            may_have_rules=lived.may_have_rules,
            leave_tries=lived.leave_tries,
            is_for_good=lived.is_for_good,
            leave_until_at=_at(lived.leave_until_at) if lived.may_have_rules else 0.0,
        )
    elif lived.phase is Phase.OUT and lived.in_force is None and is_clean and is_idle:
        kept = Life(disk=lived.disk, offer=lived.offer)
    elif lived.phase is Phase.OUT:
        return world._replace(
            running="",
            before="",
            child=Child()._replace(
                state=world.child.state,
                timer_at=world.child.timer_at,
                other=_without_name(world.child.other),
            ),
            redirection=change._replace(
                desired=red.desired,
                is_proving=red.is_proving,
                is_overtaken=red.is_proving,
                apply_at=red.apply_at if lived.may_have_rules else 0.0,
            ),
        )
    else:
        return world
    return World(
        life=kept,
        **_left_running(world),
        redirection=change,
        holding=Holding() if lived.phase is Phase.LEAVING else world.holding,
        files=world.files,
        has_program=world.has_program,
        kernel=world.kernel,
        other=Predecessor() if lived.phase is Phase.LEAVING else world.other,
        is_other_there=world.is_other_there,
        is_held=world.is_held,
        is_owner=world.is_owner,
        is_worker=world.is_worker,
        asked=world.asked,
        is_hard=world.is_hard,
    )


_RUNNING = (
    children.State.STARTING,
    children.State.READY,
    children.State.STOPPING,
    children.State.REPLACING,
)


def _without_name(other: children.Other) -> children.Other:
    """Of a host that is out nobody goes back to the one before: it is ended like any other."""
    is_two = other is not children.Other.NONE
    return children.Other.DRAINING if is_two and other is not children.Other.ENDING else other


def _left_running(world: World) -> dict[str, Any]:
    """What outlives the agent of its proxy: both, or the one that is not starting."""
    kid = world.child
    if not world.is_owner or (kid.state not in _RUNNING and not kid.is_handing_over):
        return {}
    has_two = kid.other in (children.Other.SERVING, children.Other.DRAINING)
    has_two = has_two or kid.other is children.Other.UNKNOWN
    if kid.state not in _RUNNING:
        has_two, running = False, world.before
    else:
        running = world.running
    taken = children.taken_on(LATER, has_other=has_two)._replace(patience_at=LATER)
    before = world.before if has_two else ""
    return {"child": taken, "running": running, "before": before, "is_taken_on": True}


def _at(instant: float) -> float:
    return LATER if instant > NOW.monotonic else 0.0


# Here nobody asks how often a proxy ended or whether packets have disproved rules.
_STEADY = (Phase.JOINED, Phase.GOING_BACK)


def _collapse_redirection(value: Redirection, lived: Life) -> Redirection:
    rules = value.rules
    if rules is redirections.Rules.PARTLY:
        rules = redirections.Rules.PROVEN
    is_proven = rules is redirections.Rules.PROVEN
    is_open = not value.is_proving and (rules is redirections.Rules.IN or value.is_stale)
    return Redirection(
        desired=value.desired,
        rules=rules,
        pending=value.pending,
        pending_until_at=_at(value.pending_until_at) if value.is_changing else 0.0,
        is_pending_overtaken=value.is_pending_overtaken and value.is_changing,
        is_removed=value.is_removed,
        is_proving=value.is_proving,
        is_overtaken=value.is_overtaken and value.is_proving,
        # What becomes stale while packets are under way is stale when they have shown the rules.
        is_stale=value.is_stale and (is_proven or value.is_proving),
        is_partly_out=value.is_partly_out,
        is_disproved=value.is_disproved and lived.phase not in _STEADY,
        apply_at=_at(value.apply_at) if value.is_incomplete else 0.0,
        prove_at=_at(value.prove_at) if is_open else 0.0,
        last_error=ERROR if value.last_error else "",
    )


def _collapse_holding(value: Holding) -> Holding:
    return Holding(
        desired=value.desired,
        held=value.held,
        retry_at=0.0 if value.is_held else _at(value.retry_at),
        last_error=ERROR if value.last_error else "",
    )


def _collapse_other(value: Predecessor) -> Predecessor:
    last_error = ERROR if value.last_error else ""
    return value._replace(last_error=last_error, retry_at=_at(value.retry_at))


def _collapse_rotation(value: rotations.Rotation) -> rotations.Rotation:
    if not value.is_configured:
        return rotations.Rotation()
    if value.is_held(NOW.wall):
        return HOLDING
    last_error = None if value.last_error is None else rotations.Failure("x", ERROR)
    next_at = 0.0 if value.is_asking else _at(value.next_at)
    return rotations.Rotation(
        is_configured=True, is_asking=value.is_asking, next_at=next_at, last_error=last_error
    )


def _collapse_child(value: Child, phase: Phase) -> Child:
    state = value.state
    has_timer = state in (
        children.State.STOPPING,
        children.State.REPLACING,
        children.State.BACKOFF,
    )
    is_waiting = value.patience_at is not None and value.ready_at is None
    is_given_up = is_waiting and value.is_given_up and phase not in _STEADY
    is_late = is_waiting and not is_given_up and value.is_late(NOW.monotonic)
    patience_at = None if value.patience_at is None else 0.0
    if is_waiting and not is_late and not is_given_up:
        patience_at = LATER
    if state in (children.State.IDLE, children.State.STOPPING):
        return Child(state=state, timer_at=LATER if has_timer else None, other=value.other)
    return Child(
        state=state,
        other=value.other,
        timer_at=LATER if has_timer else None,
        patience_at=patience_at,
        ready_at=0.0 if value.ready_at is not None else None,
        failures=children.READY_FAILURES if is_given_up else 0,
        has_exited=value.has_exited and is_given_up,
        last_error=ERROR if value.last_error else "",
    )


def _collapse_validation(value: Validation) -> Validation:
    if value.check is not validations.Check.UNKNOWN:
        error = ERROR if value.check is validations.Check.BAD else ""
        return Validation(value.check, last_error=error)
    error = ERROR if value.last_error else ""
    return Validation(
        failures=min(value.failures, 1), retry_at=_at(value.retry_at), last_error=error
    )


_OTHER = {"A": "B", "B": "A", "a": "b", "b": "a"}


def _exchange(world: World) -> World:
    """The same world with the names of the configurations exchanged."""

    def swap(value: Any) -> Any:
        if isinstance(value, Revision):
            return B if value is A else A
        return _OTHER.get(value, value)

    lived = world.life
    disk, rollout, refusal = lived.disk, lived.rollout, lived.refusal
    offer = lived.offer
    return world._replace(
        files=swap(world.files),
        kernel=swap(world.kernel),
        desired_proxy=swap(world.desired_proxy),
        running=swap(world.running),
        before=swap(world.before),
        asked=swap(world.asked),
        redirection=world.redirection._replace(desired=swap(world.redirection.desired)),
        holding=world.holding._replace(
            desired=frozenset(3 - port for port in world.holding.desired),
            held=frozenset(3 - port for port in world.holding.held),
        ),
        life=lived._replace(
            disk=disk._replace(
                guard=swap(disk.guard),
                accepted=disk.accepted and swap(disk.accepted),
                refused=swap(disk.refused),
            ),
            offer=offer._replace(revision=offer.revision and swap(offer.revision)),
            refusal=refusal and refusal._replace(texts=swap(refusal.texts)),
            in_force=lived.in_force and swap(lived.in_force),
            told_identity=lived.told_identity and swap(lived.told_identity),
            told=lived.told and swap(lived.told),
            rollout=rollout._replace(candidate=rollout.candidate and swap(rollout.candidate)),
        ),
    )


# -- the agent's steps, in every way they can end -----------------------------------------------


def step_edges(world: World, lived: Life, step: Step) -> Iterator[Edge]:
    """What performing a step can lead to."""
    world = world._replace(life=lived)
    for name, after, error, is_kind in _perform(world, step):
        done = decide.performed(after.life, step, world.situation(), NOW, error=error)
        yield Edge(f"{step.name} {name}".strip(), after._replace(life=done), is_kind)


def _perform(world: World, step: Step) -> Iterator[tuple[str, World, str, bool]]:
    in_force = world.life.in_force
    whose = in_force.config.redirection if in_force is not None else ""
    if step in ON_DISK:
        yield "", world, "", True
        if world.is_hard:
            yield "disk full", world, ERROR, False
        return
    match step:
        case Step.CONFIGURE_IDENTITY:
            yield "", world._replace(rotation=rotations.configured()), "", True
        case Step.CONFIGURE:
            yield "", _configure(world, str(whose)), "", True
        case Step.CHECK_CANDIDATE:
            yield "", world._replace(life=decide.checking(world.life)), "", True
        case Step.RELEASE:
            yield "", world, "", True
        case Step.VALIDATE:
            yield "", world._replace(validation=validations.begun(world.validation)), "", True
        case Step.OBTAIN:
            yield "", world._replace(rotation=rotations.asked(world.rotation)), "", True
        case Step.HOLD:
            hold = world.holding
            held = holdings.holds(hold, hold.held | hold.desired)
            yield "", world._replace(holding=held), "", True
            failed = holdings.failed(hold, hold.held, ERROR, NOW.monotonic)
            yield "taken", world._replace(holding=failed), "", False
        case Step.LET_GO:
            hold = world.holding
            kept = hold.held & hold.desired if world.life.is_joined else frozenset()
            yield "", world._replace(holding=holdings.let_go(hold, kept)), "", True
        case Step.PREPARE:
            begun = predecessors.preparing(world.other)
            yield "", world._replace(other=begun, is_held=True), "", True
        case Step.TAKE_OVER:
            yield (
                "",
                world._replace(other=predecessors.stopping(world.other), is_held=True),
                "",
                True,
            )
        case Step.LET_IN:
            yield "", world._replace(other=predecessors.opening(world.other)), "", True
        case Step.GIVE_BACK:
            free = world._replace(holding=holdings.let_go(world.holding, frozenset()))
            yield "", free._replace(other=predecessors.returning(world.other)), "", True
        case Step.APPLY:
            yield from _asked(world, Pending.INSTALLING, str(world.redirection.desired))
        case Step.PROVE:
            red = redirections.proof_begun(world.redirection)
            yield "", world._replace(redirection=red), "", True
        case Step.WITHDRAW:
            yield from _asked(world, Pending.REMOVING, "")
        case Step.ABANDON:
            red = redirections.apply_failed(world.redirection, ERROR, NOW.monotonic)
            yield "", world._replace(redirection=red), "", True
            # It was done, and not said.
            yield "done", world._replace(redirection=red, kernel=world.asked), "", True
        case Step.START:
            yield from _start(world)
        case Step.STOP_PROXY:
            yield from _child_outcomes(world, children.Event.STOP)
        case _:
            raise AssertionError(step)


def _asked(world: World, pending: Pending, whose: str) -> Iterator[tuple[str, World, str, bool]]:
    """The rules are to be changed: that ends at once, or a worker begins."""
    red = redirections.asked(world.redirection, pending, NOW.monotonic)
    asked = world._replace(redirection=red, asked=whose)
    if world.is_worker:
        yield "begun", asked, "", True
        return
    for name, after, is_kind in _answers(asked):
        yield name, after, "", is_kind


def _answers(world: World) -> Iterator[tuple[str, World, bool]]:
    """A change of the rules ends."""
    red = world.redirection
    if red.pending is Pending.INSTALLING:
        ended = redirections.applied(red, has_changed=True)
    else:
        ended = redirections.withdrawn(red)
    yield "", world._replace(redirection=ended, kernel=world.asked), True
    failed = redirections.apply_failed(red, ERROR, NOW.monotonic)
    is_as_before = red.pending is Pending.INSTALLING
    refused = redirections.apply_failed(red, ERROR, NOW.monotonic, is_as_before=is_as_before)
    yield "rejected", world._replace(redirection=refused), False
    if red.pending is Pending.INSTALLING:
        # In, and not read back equal.
        yield "differs", world._replace(redirection=failed, kernel=world.asked), False


def _change_ends(world: World) -> Iterator[Edge]:
    if world.redirection.is_changing:
        what = world.redirection.pending.name.lower()
        for name, after, is_kind in _answers(world):
            yield Edge(f"{what} ended {name}".strip(), after, is_kind)


def _other(world: World) -> Iterator[Edge]:
    """What was begun with the service of another agent ends."""
    value = world.other
    match value.state:
        case predecessors.State.PREPARING:
            ready = predecessors.prepared(value, NOW.monotonic)
            yield Edge("it is prepared", world._replace(other=ready), is_kind=True)
            for is_held in (True, False):
                alone = predecessors.prepared(value, NOW.monotonic, ERROR, is_held=is_held)
                left = world._replace(other=alone, is_held=is_held)
                yield Edge(f"it is not prepared, held: {is_held}", left, is_kind=False)
        case predecessors.State.ENDING:
            ended = world._replace(
                other=predecessors.stopped(value, NOW.monotonic), is_other_there=False
            )
            yield Edge("it has ended", ended, is_kind=True)
            failed = world._replace(other=predecessors.stopped(value, NOW.monotonic, ERROR))
            yield Edge("it does not end", failed, is_kind=False)
        case predecessors.State.OPENING:
            let_in = world._replace(other=predecessors.opened(value, NOW.monotonic), is_held=False)
            yield Edge("let in", let_in, is_kind=True)
            failed = world._replace(other=predecessors.opened(value, NOW.monotonic, ERROR))
            yield Edge("not let in", failed, is_kind=False)
        case predecessors.State.RETURNING:
            for is_there in (True, False):
                back = predecessors.returned(value, "" if is_there else ERROR, is_running=is_there)
                came = world._replace(other=back, is_other_there=is_there, is_held=False)
                yield Edge(f"it is back: {is_there}", came, is_kind=is_there)
                # It is tried again, and nothing else begins meanwhile.
                held = world._replace(is_other_there=is_there)
                yield Edge(f"not let in, it is back: {is_there}", held, is_kind=False)
            partly = predecessors.returned(value, "", is_running=True, is_held=True)
            came = world._replace(other=partly, is_other_there=True)
            yield Edge("it is back, our rules lead elsewhere", came, is_kind=True)


def _configure(world: World, whose: str) -> World:
    red = redirections.desire(world.redirection, whose)
    is_known = world.running == whose and world.child.state is not children.State.IDLE
    val = validations.passed() if is_known else Validation()
    if whose == world.desired_proxy:
        val = world.validation
    hold = holdings.desire(world.holding, PORTS[whose])
    return world._replace(redirection=red, holding=hold, desired_proxy=whose, validation=val)


def _start(world: World) -> Iterator[tuple[str, World, str, bool]]:
    """As the proxy part starts it: it goes back, takes over, or is started in its place."""
    kid = world.child
    started = world._replace(running=world.desired_proxy)
    if kid.other is children.Other.SERVING and world.before == world.desired_proxy:
        yield from _child_outcomes(started, children.Event.RETURN)
    elif kid.state is children.State.READY and kid.other is children.Other.NONE:
        before = started._replace(before=world.running)
        yield from _child_outcomes(before, children.Event.SUCCEED)
    else:
        yield from _child_outcomes(started, children.Event.START)


def _child_outcomes(
    world: World, event: children.Event, *, error: str = "", has_exited: bool = False
) -> Iterator[tuple[str, World, str, bool]]:
    """A spawn may fail; everything else that a child does comes as an event of its own."""
    kid = world.child
    if world.is_taken_on and kid.state in (children.State.STARTING, children.State.READY):
        if event in (children.Event.EXITED, children.Event.HUNG):
            # Whoever asks for one starts it anew.
            kid, _ = children.take(kid, children.Event.STOP, NOW.monotonic)
        if event is children.Event.HUNG:
            yield "", world._replace(child=kid), "", True
            return
    kid, action = children.take(kid, event, NOW.monotonic, error=error, has_exited=has_exited)
    is_taken_on = world.is_taken_on and action is not children.Action.SPAWN
    after = world._replace(child=kid, is_taken_on=is_taken_on)
    yield "", after, "", True
    if action is children.Action.SPAWN:
        kid, _ = children.take(kid, children.Event.EXITED, NOW.monotonic, error=ERROR)
        yield "cannot be started", after._replace(child=kid), "", False


# -- everything else ---------------------------------------------------------------------------


def event_edges(world: World) -> Iterator[Edge]:
    """What can happen while the agent waits."""
    yield from _change_ends(world)
    yield from _other(world)
    if world.life.phase is Phase.LEAVING:
        if world.redirection.is_changing:
            yield from _time(world)
            yield from killings(world, "killed")
        else:
            yield Edge("ended", killed(world), is_kind=True)
        return
    yield from _files(world)
    yield from _kernel(world)
    yield from _identity(world)
    yield from _proxy(world)
    yield from _time(world)
    yield from killings(world, "killed")
    yield from _disk(world)
    if world.is_owner:
        left = decide.leave(world.life, NOW, is_for_good=True)
        yield Edge("stopped", world._replace(life=left), is_kind=False)
    yield Edge("SIGTERM", world._replace(life=decide.leave(world.life, NOW)), is_kind=False)


def _disk(world: World) -> Iterator[Edge]:
    """Somebody has removed files of the state directory, and a look has found that."""
    names = ("has_mark", "has_guard", "has_accepted")
    for gone in (*names, "all"):
        found = {name: gone not in (name, "all") for name in names}
        looked = lives.looked_at_disk(world.life, **found)
        if looked != world.life:
            yield Edge(f"removed: {gone}", world._replace(life=looked), is_kind=False)


def killings(world: World, name: str) -> Iterator[Edge]:
    """The agent is killed; a worker that changes the rules has done it by then, or not."""
    yield Edge(name, killed(world), is_kind=False)
    if world.redirection.is_changing and world.asked != world.kernel:
        done = killed(world._replace(kernel=world.asked))
        yield Edge(f"{name}, the rules changed", done, is_kind=False)

    for edge in _other(world):
        yield Edge(f"{name}, {edge.name}", killed(edge.world), is_kind=False)


def killed(world: World) -> World:
    """The agent is gone: what stays is the disk, the kernel's rules, and a proxy in a unit."""
    # A service manager that owns the rules keeps the sockets, too.
    held = world.holding.held if world.is_owner else frozenset()
    dead = World(
        life=Life(disk=world.life.disk),
        **_left_running(world),
        holding=Holding(held=held),
        files=world.files,
        has_program=world.has_program,
        kernel=world.kernel,
        other=_first_look(world),
        is_other_there=world.is_other_there,
        is_held=world.is_held,
        is_owner=world.is_owner,
        is_worker=world.is_worker,
        is_hard=world.is_hard,
        is_alive=False,
    )
    return dead._replace(
        life=dead.life._replace(
            disk=world.life.disk._replace(
                guard=None,
                retry_at=0.0,
                last_error="",
                is_mark_gone=False,
                is_accepted_gone=False,
            )
        ),
    )


def start_edges(world: World) -> Iterator[Edge]:
    """The agent starts again, the machine the same or booted anew."""
    begun = world._replace(life=lives.begin(world.life.disk), is_alive=True)
    yield Edge("start", begun, is_kind=True)
    without = begun._replace(child=Child(), running="", is_taken_on=False)
    if world.is_taken_on:
        yield Edge("start, the proxy has ended", without, is_kind=False)
    if world.kernel:
        disk = world.life.disk._replace(is_stored=False)
        booted = without._replace(kernel="", life=lives.begin(disk), holding=Holding())
        booted = booted._replace(other=Predecessor(), is_other_there=False, is_held=False)
        yield Edge("boot", booted, is_kind=False)


def _first_look(world: World) -> Predecessor:
    return predecessors.begin(is_held=world.is_held, is_running=world.is_other_there)


def read_offer(files: str, disk: lives.Disk) -> Offer:
    """As the configuration part offers it: bad or missing files leave what was accepted."""
    if files in ("bad", "empty") and disk.accepted is not None:
        return Offer(disk.accepted, is_empty=False)
    return OFFERS[files]


def _files(world: World) -> Iterator[Edge]:
    if not world.life.offer.is_read:
        unreadable = world._replace(life=lives.unreadable(world.life))
        yield Edge("files cannot be read", unreadable, is_kind=False)
        offer = read_offer(world.files, world.life.disk)
        read = world._replace(life=lives.offered(world.life, offer))
        yield Edge("files read", read, is_kind=True)
    for name in OFFERS:
        is_asked = name == world.files
        changed = world._replace(files=name, other=predecessors.retry(world.other))
        if world.validation.check is validations.Check.BAD:
            # With each reading of the files the program may be another one.
            changed = changed._replace(validation=Validation())
        offer = read_offer(name, world.life.disk)
        lived = lives.offered(world.life, offer, is_asked=is_asked)
        yield Edge(
            f"reload {name}" if is_asked else f"files {name}",
            changed._replace(life=lived),
            is_asked,
        )
    if not world.is_hard:
        return
    flipped = world._replace(has_program=not world.has_program)
    yield Edge("program comes or goes", flipped, is_kind=not world.has_program)


def _kernel(world: World) -> Iterator[Edge]:
    red = world.redirection
    if red.is_proving:
        for proof in (Proof.PROVEN, Proof.NOTHING):
            ended = redirections.proof_ended(red, proof, NOW.monotonic)
            yield Edge(
                f"proof {proof.name}", world._replace(redirection=ended), proof is Proof.PROVEN
            )
        shut = redirections.proof_ended(red, Proof.PROVEN, NOW.monotonic, ERROR)
        yield Edge("a firewall drops it", world._replace(redirection=shut), is_kind=False)
        for is_disproved in (False, True):
            failed = redirections.proof_failed(
                red, ERROR, NOW.monotonic, is_disproved=is_disproved
            )
            name = "disproved" if is_disproved else "proof failed"
            yield Edge(name, world._replace(redirection=failed), is_kind=False)
    if world.kernel and red.rules is not redirections.Rules.OUT:
        gone = redirections.drifted(red, NOW.monotonic)
        yield Edge("flushed", world._replace(kernel="", redirection=gone), is_kind=False)
        late = gone._replace(apply_at=LATER)
        guardless = redirections.drifted(red, NOW.monotonic, is_of_guard=True)
        yield Edge("guard removed", world._replace(redirection=guardless), is_kind=False)
        yield Edge("fought over", world._replace(kernel="", redirection=late), is_kind=False)
    doubted = redirections.doubted(red, LATER)
    yield Edge(
        "facts or others' rules changed", world._replace(redirection=doubted), is_kind=False
    )


def _identity(world: World) -> Iterator[Edge]:
    value = world.rotation
    if value.is_asking:
        held = rotations.Report("id", "", 0.0, LATER, 0.0)
        found = rotations.obtained(value, held, NOW.wall, jitter=0.0, ratio=0.5)
        yield Edge("certificate", world._replace(rotation=found), is_kind=True)
        last_error = rotations.Failure(rotations.REFUSED, ERROR)
        failed = rotations.failed(value, last_error, NOW.wall, jitter=0.0)
        yield Edge("no certificate", world._replace(rotation=failed), is_kind=False)
    changed = rotations.credentials_changed(value)
    if changed != value:
        yield Edge("new token", world._replace(rotation=changed), is_kind=True)
    if value.held is not None:
        lost = rotations.looked(rotations.doubted(value), None)
        yield Edge("certificate lost or lapsed", world._replace(rotation=lost), is_kind=False)


def _proxy(world: World) -> Iterator[Edge]:
    kid = world.child
    if world.validation.check is validations.Check.RUNNING:
        for name, found in _validations(world.validation):
            yield Edge(f"bootstrap {name}", world._replace(validation=found), name == "passed")
    candidate = world.life.rollout.validation
    if candidate.check is validations.Check.RUNNING and world.life.rollout.candidate is not None:
        for name, found in _validations(candidate):
            lived = decide.checked(world.life, found)
            yield Edge(f"candidate {name}", world._replace(life=lived), name == "passed")
    yield from _other_proxy(world)
    runs = kid.state not in (children.State.IDLE, children.State.BACKOFF)
    events: list[tuple[str, children.Event, bool, bool]] = []
    if kid.state in (children.State.STARTING, children.State.READY):
        events += [
            ("proxy ready", children.Event.READY, False, True),
            ("proxy hung", children.Event.HUNG, False, False),
        ]
        if not kid.is_handing_over:
            events.append(("proxy unready", children.Event.UNREADY, False, False))
    is_asked = kid.state in (children.State.STOPPING, children.State.REPLACING)
    # The end of one that was told to is reported behind that of the other one.
    if runs and not (
        is_asked and kid.other is not children.Other.NONE and not kid.is_handing_over
    ):
        is_kind = kid.state in (children.State.STOPPING, children.State.REPLACING)
        events += [
            ("proxy exited", children.Event.EXITED, True, is_kind),
            ("proxy killed", children.Event.EXITED, False, is_kind),
        ]
    for name, event, has_exited, is_kind in events:
        error = "" if event in (children.Event.READY, children.Event.UNREADY) else ERROR
        for more, after, _, is_good in _child_outcomes(
            world, event, error=error, has_exited=has_exited
        ):
            yield Edge(f"{name} {more}".strip(), after, is_kind and is_good)
        if event is children.Event.EXITED and kid.patience_at is not None:
            # It was the last of too many.
            often = world._replace(child=kid._replace(failures=children.READY_FAILURES - 1))
            for more, after, _, _ in _child_outcomes(
                often, event, error=error, has_exited=has_exited
            ):
                yield Edge(f"{name} too often {more}".strip(), after, is_kind=False)


def _other_proxy(world: World) -> Iterator[Edge]:
    """What becomes of the one before."""
    kid = world.child
    events: list[tuple[str, children.Event, bool]] = []
    if kid.other is children.Other.UNKNOWN:
        events.append(("the one before serves", children.Event.OTHER_SERVES, True))
    if kid.is_handing_over:
        events.append(("the one before is lost", children.Event.LOST, False))
    elif kid.other is not children.Other.NONE:
        events.append(("the one before has ended", children.Event.DRAINED, True))
    for name, event, is_kind in events:
        for more, after, _, is_good in _child_outcomes(world, event):
            yield Edge(f"{name} {more}".strip(), after, is_kind and is_good)


def _validations(value: Validation) -> Iterator[tuple[str, Validation]]:
    yield "passed", validations.passed()
    yield "refused", validations.refused(ERROR)
    yield "undecided", validations.undecided(value, ERROR, NOW.monotonic)


Setter = Callable[[float | None], World]


def _time(world: World) -> Iterator[Edge]:
    for name, value in _timers(world):
        if name == "child.timer_at" and world.child.is_blocked:
            continue  # it is held up
        if name == "child.timer_at":
            kid, _ = children.take(world.child, children.Event.TIMER, NOW.monotonic)
            yield Edge("time: child", world._replace(child=kid), is_kind=True)
        else:
            yield Edge(
                f"time: {name}", value, is_kind=name != "patience_at" and "until" not in name
            )
    rot = world.rotation
    if rot.next_at > NOW.wall and rot.held is None:
        yield Edge(
            "time: renewal", world._replace(rotation=rot._replace(next_at=0.0)), is_kind=True
        )


def _timers(world: World) -> Iterator[tuple[str, World]]:
    def due(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        for name, found in zip(value._fields, value, strict=True):
            if name.endswith("_at") and found == LATER:
                yield path + name, value._replace(**{name: 0.0})
            elif hasattr(found, "_fields") and not isinstance(
                found, (Revision, Offer, rotations.Rotation)
            ):
                for which, inner in due(found, f"{name}."):
                    yield which, value._replace(**{name: inner})

    yield from due(world, "")
