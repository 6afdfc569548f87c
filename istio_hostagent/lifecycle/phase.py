"""Where a host is in its life in the mesh, as a table. A pair that is not in it is a bug.

A host that is OUT has no rules and no proxy of ours, whatever its files say. JOINING is a
transaction: it ends JOINED or, everything taken back, OUT. A JOINED host keeps its rules. TRYING
has a configuration in force that has not worked yet while another one has.
"""

import enum


class Phase(enum.Enum):
    """Where a host is."""

    OUT = "out"
    JOINING = "joining"
    JOINED = "joined"
    TRYING = "trying"
    GOING_BACK = "going back"
    LEAVING = "leaving"


class Turn(enum.Enum):
    """What takes a host from one phase to another."""

    ATTEMPT = "everything is there that joining needs"
    FAIL = "the attempt to join failed"
    COMMIT = "joined, and written down"
    TRY = "a changed configuration comes into force"
    ACCEPT = "what is in force has worked, and is written down"
    GO_BACK = "the configuration that has worked comes into force again"
    SETTLE = "what was come back to works, or will not"
    LEAVE = "told to stop"


TRANSITIONS: dict[tuple[Phase, Turn], Phase] = {
    (Phase.OUT, Turn.ATTEMPT): Phase.JOINING,
    (Phase.JOINING, Turn.FAIL): Phase.OUT,
    (Phase.JOINING, Turn.COMMIT): Phase.JOINED,
    (Phase.JOINED, Turn.TRY): Phase.TRYING,
    (Phase.TRYING, Turn.TRY): Phase.TRYING,
    (Phase.TRYING, Turn.ACCEPT): Phase.JOINED,
    (Phase.TRYING, Turn.GO_BACK): Phase.GOING_BACK,
    (Phase.GOING_BACK, Turn.TRY): Phase.TRYING,
    (Phase.GOING_BACK, Turn.SETTLE): Phase.JOINED,
    **{(phase, Turn.LEAVE): Phase.LEAVING for phase in Phase},
}

# A host in these has joined: its rules go in first at a start, and stay.
STAYING = frozenset({Phase.JOINED, Phase.TRYING, Phase.GOING_BACK})


def next_phase(phase: Phase, turn: Turn) -> Phase:
    """Look the pair up; KeyError means that the caller asked for what cannot happen."""
    return TRANSITIONS[phase, turn]
