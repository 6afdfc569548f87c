"""All rows: every option with packets of both families, and what does not work yet."""

import functools
import json
import subprocess
from typing import NamedTuple

import pytest

from tests.conformance import generations, names, options, plain, tproxy, world
from tests.conformance.model import Configuration, Packet

CONFIGURATIONS: tuple[Configuration, ...] = (
    *plain.CONFIGURATIONS,
    *options.CONFIGURATIONS,
    *generations.CONFIGURATIONS,
    *names.CONFIGURATIONS,
    *tproxy.CONFIGURATIONS,
)
# Features of which some packet still meets something else: it shrinks to nothing.
NOT_YET: frozenset[str] = frozenset()


class Case(NamedTuple):
    """One packet under one configuration."""

    configuration: Configuration
    number: int

    @property
    def packet(self) -> Packet:
        return self.configuration.packets[self.number]

    def group(self) -> pytest.MarkDecorator:
        """Keep what shares a world in one process."""
        return pytest.mark.xdist_group(f"conformance-{self.configuration.name}")

    def __str__(self) -> str:
        return f"{self.configuration.name}: {self.packet}"


CASES = tuple(Case(each, number) for each in CONFIGURATIONS for number in range(len(each.packets)))


class Seen(NamedTuple):
    """What became of a configuration: who got each packet, none where the rules were refused."""

    answers: tuple[str, ...]
    refusal: str

    def of(self, case: Case) -> str:
        return self.answers[case.number] if self.answers else f"no rules: {self.refusal}"


def ours(made: world.World, _configuration: Configuration) -> subprocess.CompletedProcess[str]:
    return made.apply()


def in_legacy_tables(
    made: world.World, _configuration: Configuration
) -> subprocess.CompletedProcess[str]:
    """Run `apply` where root has chosen the tables of iptables-legacy."""
    return made.apply("ISTIO_HOSTAGENT_BACKEND=legacy\n")


def find(name: str) -> Configuration:
    return next(each for each in CONFIGURATIONS if each.name == name)


@functools.cache
def predict(name: str) -> Seen:
    """Ask the product's own model of its rules, which sends no packet; once in a process."""
    return predict_one(find(name))


def predict_one(configuration: Configuration) -> Seen:
    with world.make(configuration) as made:
        done = made.judge(configuration)
        if done.returncode != 0:
            return Seen((), f"status {done.returncode}: {done.stderr.strip()}")
        return Seen(tuple(json.loads(done.stdout)), "")


@functools.cache
def observe(name: str, apply: world.Apply) -> Seen:
    """Put the rules of a configuration in and send its packets; once in a process."""
    return observe_one(find(name), apply)


def observe_one(configuration: Configuration, apply: world.Apply) -> Seen:
    with world.make(configuration) as made:
        done = apply(made, configuration)
        if done.returncode != 0:
            return Seen((), f"status {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return Seen(tuple(made.send(configuration)), "")
