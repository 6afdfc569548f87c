"""What is promised of the control groups of units: of the kernel's, and of those in memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from istio_hostagent.config import model
from istio_hostagent.host import controlgroups, groupwatch, mailbox, ports
from tests.fakes.groups import FakeGroups
from tests.lab import groups as lab
from tests.lab import layers

PATIENCE_S = 60.0


class Host(NamedTuple):
    groups: ports.Groups
    inbox: mailbox.Mailbox[str]
    start: Callable[[str], object]  # a unit, below the slice of the test
    stop: Callable[[str], object]
    unit: Callable[[str], str]  # what a unit is called
    path: Callable[[str], str]


class GroupsContract:
    def test_a_unit_that_starts_or_stops_is_told(self, host: Host) -> None:
        unit = host.unit("a.service")
        assert host.groups.follow(model.Units((unit,))) == ()
        host.start("a.service")
        assert host.inbox.wait(PATIENCE_S)
        (found,) = host.groups.follow(model.Units((unit,)))
        assert (found.unit, found.path) == (unit, host.path("a.service"))
        assert found.number > 0
        host.stop("a.service")
        assert host.inbox.wait(PATIENCE_S)
        assert host.groups.follow(model.Units((unit,))) == ()

    def test_one_that_is_started_again_has_another_number(self, host: Host) -> None:
        unit = host.unit("a.service")
        seen = set()
        for _ in range(3):
            host.start("a.service")
            (found,) = host.groups.follow(model.Units((unit,)))
            seen.add(found.number)
            host.stop("a.service")
        assert len(seen) == 3

    def test_a_group_is_followed_by_its_path(self, host: Host) -> None:
        path = host.path("a.service")
        assert host.groups.follow(model.Units((path,))) == ()
        host.start("a.service")
        assert host.inbox.wait(PATIENCE_S)
        (found,) = host.groups.follow(
            model.Units(
                (
                    path,
                    host.unit("b.service"),
                )
            )
        )
        assert (found.unit, found.path) == (path, path)

    def test_a_look_changes_nothing_of_what_is_followed(self, host: Host) -> None:
        followed, other = (model.Units((host.unit(n),)) for n in ("a.service", "b.service"))
        host.groups.follow(followed)
        told: list[list[str]] = []
        # Slices of other tests are told of, as below.
        while [] not in told and len(told) < 200:
            _drain(host.inbox)
            host.start("b.service")
            (found,) = host.groups.look(other)
            assert found.path == host.path("b.service")
            told.append(list(host.inbox.wait(0.0)))
            host.stop("b.service")
        assert [] in told
        host.start("a.service")
        assert host.inbox.wait(PATIENCE_S)

    def test_what_is_not_followed_any_more_is_not_told(self, host: Host) -> None:
        host.groups.follow(model.Units((host.unit("a.service"),)))
        assert host.groups.follow(model.Units(())) == ()
        host.start("a.service")
        assert host.inbox.wait(0.0) == []
        assert host.groups.last_error == ""

    def test_where_units_are_included_the_others_are_told(self, host: Host) -> None:
        unit = host.unit("a.service")
        units = model.Units(include=(unit,))

        def of_test() -> dict[str, tuple[str, bool]]:
            found = host.groups.follow(units, host.path("own.service"))
            mine = host.path("")
            return {g.path: (g.unit, g.is_captured) for g in found if g.path.startswith(mine)}

        assert of_test() == {}
        for name in ("a.service", "b.service", "own.service"):
            host.start(name)
            assert host.inbox.wait(PATIENCE_S)
            _drain(host.inbox)
        wanted = {host.path("a.service"): (unit, True), host.path("b.service"): ("", False)}
        assert of_test() == wanted
        host.stop("b.service")
        assert host.inbox.wait(PATIENCE_S)
        assert of_test() == {host.path("a.service"): (unit, True)}


def _drain(inbox: mailbox.Mailbox[str]) -> None:
    """Take what else one change was told as."""
    while inbox.wait(0.0):
        pass


class TestGroupWatcher(GroupsContract):
    @pytest.fixture
    def top(self) -> Iterator[lab.ControlGroup]:
        layers.require("netns", lab.missing())
        with lab.ControlGroup(is_slice=True) as made:
            yield made

    @pytest.fixture
    def host(self, top: lab.ControlGroup) -> Iterator[Host]:
        inbox: mailbox.Mailbox[str] = mailbox.Mailbox()
        made = groupwatch.GroupWatcher(inbox, lambda: "changed")
        yield Host(
            made,
            inbox,
            lambda name: top.make(f"{top.name}-{name}"),
            lambda name: top.remove(f"{top.name}-{name}"),
            lambda name: f"{top.name}-{name}",
            lambda name: top.path_of(f"{top.name}-{name}" if name else ""),
        )
        made.stop()

    def test_units_of_slices_that_come_later_are_told(
        self, host: Host, top: lab.ControlGroup
    ) -> None:
        unit = host.unit("a.service")
        assert host.groups.follow(model.Units((unit,))) == ()
        top.make("one.slice")
        assert host.inbox.wait(PATIENCE_S)
        assert host.groups.follow(model.Units((unit,))) == ()
        top.make(f"one.slice/two.slice/{unit}")
        assert host.inbox.wait(PATIENCE_S)
        (found,) = host.groups.follow(model.Units((unit,)))
        assert found.path == top.path_of(f"one.slice/two.slice/{unit}")

    def test_a_path_is_followed_although_nothing_on_its_way_is_there(
        self, host: Host, top: lab.ControlGroup
    ) -> None:
        path = top.path_of("x/y/z")
        found = host.groups.follow(model.Units((path,)))
        assert found == ()
        for part in ("x", "x/y", "x/y/z"):
            top.make(part)
            assert host.inbox.wait(PATIENCE_S)
            found = host.groups.follow(model.Units((path,)))
        assert [each.path for each in found] == [path]

    def test_what_others_start_and_stop_is_not_told(
        self, host: Host, top: lab.ControlGroup
    ) -> None:
        host.groups.follow(model.Units((host.unit("a.service"),)))
        told: list[list[str]] = []
        # Slices of other tests, in the root of the same tree, are told of: until these are quiet.
        while [] not in told and len(told) < 200:
            _drain(host.inbox)
            host.start("b.service")
            host.stop("b.service")
            told.append(host.inbox.wait(0.05))
        assert [] in told

    def test_no_slice_in_which_an_included_unit_may_start_is_left_alone_as_a_whole(
        self, top: lab.ControlGroup
    ) -> None:
        for name in ("one.slice/x.service/part", "one.slice/two.slice", "three/a.service"):
            top.make(name)
        found = self._search(top, model.Units(include=("a.service",)))
        assert found == {"one.slice/x.service", "three"}
        top.make("one.slice/two.slice/a.service")
        assert self._search(top, model.Units(include=("a.service",))) == found
        assert self._search(top, model.Units(include=("two.slice",))) == found

    def test_only_what_is_on_the_way_to_an_included_path_is_looked_into(
        self, top: lab.ControlGroup
    ) -> None:
        for name in ("one.slice/x.service/part", "one.slice/y.service", "two.slice"):
            top.make(name)
        path = top.path_of("one.slice/x.service/part")
        found = self._search(top, model.Units(include=(path,)))
        assert found == {"one.slice/y.service", "two.slice"}
        top.make("one.slice/x.service/other")
        found = self._search(top, model.Units(include=(path,)))
        assert found == {"one.slice/y.service", "two.slice", "one.slice/x.service/other"}
        # What is not there yet is not left alone when it comes.
        found = self._search(top, model.Units(include=(top.path_of("new.slice/z"),)))
        assert found == {"one.slice", "two.slice"}

    def _search(self, top: lab.ControlGroup, units: model.Units) -> set[str]:
        """What is left alone below the slice of the test."""
        found = controlgroups.search(str(top.path), units).groups
        whole = controlgroups.search(controlgroups.find_root(), units).groups
        mine = top.path_of("")
        assert all(not each.is_captured or each.unit for each in (*found, *whole))
        if not any(unit.startswith("/") for unit in units.include):
            return {each.path[1:] for each in found if not each.is_captured}
        groups = [each for each in whole if not each.is_captured]
        return {each.path.removeprefix(mine) for each in groups if each.path.startswith(mine)}

    def test_of_very_many_others_the_last_are_captured_and_that_is_said(
        self, host: Host, top: lab.ControlGroup, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Tests beside this one see what is made here.
        monkeypatch.setattr(controlgroups, "MOST_OTHERS", 20)
        for number in range(controlgroups.MOST_OTHERS + 1):
            top.make(f"{number}.service")
        found = host.groups.follow(model.Units(include=(host.unit("a.service"),)))
        assert len(found) == controlgroups.MOST_OTHERS
        assert "other units run: what is beyond is captured" in host.groups.last_error

    def test_nobody_who_was_given_a_group_can_pose_as_a_unit(
        self, host: Host, top: lab.ControlGroup
    ) -> None:
        """Below a unit whoever runs it may make groups (Delegate=)."""
        unit = host.unit("a.service")
        top.make(f"user@7.service/app.slice/{unit}")
        top.make(f"b.service/{unit}")
        assert host.groups.follow(model.Units((unit,))) == ()

    def test_a_name_like_that_of_a_control_file_has_a_line_in_front(
        self, host: Host, top: lab.ControlGroup
    ) -> None:
        unit = f"memory.{top.name}.service"
        host.groups.follow(model.Units((unit,)))
        top.make(f"_{unit}")
        assert host.inbox.wait(PATIENCE_S)
        (found,) = host.groups.follow(model.Units((unit,)))
        assert found.path == top.path_of(f"_{unit}")

    def test_the_numbers_on_the_way_are_those_of_the_kernel(
        self, host: Host, top: lab.ControlGroup
    ) -> None:
        made = top.make("x/y")
        wanted = tuple(each.stat().st_ino for each in (top.path, made.parent, made))
        assert controlgroups.numbers_on_the_way(top.path_of("x/y")) == wanted
        assert controlgroups.numbers_on_the_way(top.path_of("x/z")) == ()
        assert controlgroups.numbers_on_the_way("/") == ()


class TestFakeGroups(GroupsContract):
    @pytest.fixture
    def host(self) -> Host:
        inbox: mailbox.Mailbox[str] = mailbox.Mailbox()
        made = FakeGroups()
        made.tell = lambda: inbox.post("changed")

        def path(name: str) -> str:
            return f"/a.slice/{name}"

        return Host(
            made,
            inbox,
            lambda name: made.start(path(name)),
            lambda name: made.stop(path(name)),
            str,
            path,
        )
