"""The reachable graph of `world`, breadth first, with every state's edges."""

import collections
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from istio_hostagent.lifecycle import decide
from istio_hostagent.lifecycle.life import Life

from .world import NOW, Edge, World, collapse, event_edges, killings, start_edges, step_edges


@dataclass
class Graph:
    """States by number; `edges[n]`: (name, number, is_kind)."""

    states: list[World] = field(default_factory=list)
    edges: list[list[tuple[str, int, bool]]] = field(default_factory=list)
    parents: list[tuple[int, str]] = field(default_factory=list)

    def way_to(self, number: int) -> str:
        """What happened until this state."""
        names = []
        while number >= 0:
            number, name = self.parents[number]
            names.append(name)
        return " > ".join(reversed(names[:-1] if names else names))


def successors(world: World) -> Iterable[Edge]:
    """Everything that can come next."""
    if not world.is_alive:
        yield from start_edges(world)
        return
    lived, step = decide.advance(world.life, world.situation(), NOW)
    if step is None:
        if lived != world.life:
            yield Edge("turn", _with(world, lived), True)
            return
        yield from event_edges(world)
        return
    yield from step_edges(world, lived, step)
    yield from killings(_with(world, lived), f"killed before {step.name}")


def _with(world: World, lived: Life) -> World:
    return world._replace(life=lived)


def explore(
    starts: Iterable[World],
    check: Callable[[World, Edge], None] | None = None,
    *,
    faults: int | None = None,
) -> Graph:
    """All that can be reached, with at most so many faults (edges that are not kind) on the way.

    `check` looks at every transition. States that only more faults could reach have no edges.
    """
    graph = Graph()
    numbers: dict[World, int] = {}
    distance: list[int] = []
    queue: collections.deque[tuple[int, int]] = collections.deque()

    def number_of(world: World, parent: int, name: str, after: int, *, is_kind: bool) -> int:
        number = numbers.get(world)
        if number is None:
            number = numbers[world] = len(graph.states)
            graph.states.append(world)
            graph.edges.append([])
            graph.parents.append((parent, name))
            distance.append(after)
        elif after >= distance[number]:
            return number
        distance[number] = after
        (queue.appendleft if is_kind else queue.append)((number, after))
        return number

    for start in starts:
        number_of(collapse(start), -1, "", 0, is_kind=False)
    done: set[int] = set()
    while queue:
        number, so_far = queue.popleft()
        if number in done or so_far > distance[number]:
            continue
        if faults is not None and so_far > faults:
            continue
        done.add(number)
        world = graph.states[number]
        row = graph.edges[number]
        for edge in successors(world):
            if check is not None:
                check(world, edge)
            after = so_far + (not edge.is_kind)
            target = number_of(
                collapse(edge.world), number, edge.name, after, is_kind=edge.is_kind
            )
            row.append((edge.name, target, edge.is_kind))
    return graph
