"""What workers say is believed as far as it fits, and no further."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from istio_hostagent.agent import fields
from istio_hostagent.host import files, processes
from istio_hostagent.host.answers import certificate as certificates
from istio_hostagent.host.answers import checks, formats, reader
from istio_hostagent.identity import rotation
from istio_hostagent.redirect import exchange, model

HELD = {
    "identity": "spiffe://cluster.local/ns/default/sa/default",
    "serial": "2e26",
    "not_before": 1_700_000_000.0,
    "not_after": 1_700_086_400.0,
    "received": 1_700_000_120.5,
    "obtained": True,
    "via": "token",
}
ERROR = {"code": "certificate-refused", "message": "no such account", "hint": ""}
REQUESTS: dict[str, Any] = {
    "catalogue": {"names": [], "version": 7},
    "certificate": {},
    "certificateset": {"directory": "/a"},
    "drain": {},
    "forgotten": {"remove": ["/a", "/b"]},
    "hotrestart": {"task": "compare", "socket": "/a", "program": "/b"},
    "looker": ("/a", "/b"),
    "openings": {"at": 15006, "captured": [[8080, 8080]], "passages": []},
    "outputs": {"outputs": [{}, {}]},
    "port_owner": {"uid": 65534, "inode": 4711},
    "predecessor": {},
    "probe_sockets": {"groups": [{}, {}]},
    "queries": {"port": 15053},
    "reach": {"calls": [{}]},
    "reader": ("/a", "/b"),
    "registration": {"action": "withdraw", "gone": []},
    "second_reader": {},
    "served": {"socket": "/run/envoy.sock", "port": 15000, "identity": "spiffe://a/b"},
    "takeover": {"part": "netlink", "removes": True, "is_replaced": True},
    "xtables": {"family": "iptables-legacy", "steps": []},
}
SHOWN = {
    "subject": "CN=x",
    "issuer": "",
    "serial": "2e26",
    "not_before": 1_700_000_000,
    "not_after": 1_700_003_600.5,
    "fingerprint": "ab" * 32,
    "names": ["spiffe://a/b"],
}
GOOD: dict[str, Any] = {
    "catalogue": {"version": 8, "addresses": ["10.0.0.7", "fd00::7"], "error": ERROR},
    "certificate": {"held": HELD, "error": ERROR},
    "certificateset": {
        "identity": "spiffe://a/b",
        "key": "ec-p256",
        "chain": [SHOWN],
        "roots": [SHOWN, SHOWN],
        "faults": ["the certificate expired"],
    },
    "drain": {"error": ERROR},
    "queries": {"error": ERROR},
    "forgotten": {"removed": [True, False], "errors": ["", "Permission denied"]},
    "looker": [
        {"target": [7, 1_700_000_000_000_000_000, 5], "entry": None, "is_program": True},
        {"target": None, "entry": None, "is_program": False},
    ],
    "openings": {
        "opened": ["chain inet filter input"],
        "refused": ["it does not name the port"],
        "has_changed": True,
        "error": ERROR,
    },
    "outputs": {
        "outputs": [{"is_changed": True, "error": ""}, {"is_changed": False, "error": "x"}]
    },
    "port_owner": {"user": "nobody", "pid": 4711, "program": "nc"},
    "predecessor": {"held_s": 1.5, "is_held": True, "error": ERROR},
    "probe_sockets": {"errnos": [0, 97, 1, 2]},
    "reach": {
        "roots": {"number": 1, "until": 1_700_086_400.0, "error": ""},
        "token": {"error": "", "until": None},
        "calls": [
            {
                **{"addresses": ["10.0.0.7"], "address": "10.0.0.7", "took_s": 0.01},
                **{"stage": "tls", "error": "timed out", "name": "", "shown": "istio-ca"},
                **{"since": 1_700_000_000.0, "until": None, "date": None},
            }
        ],
    },
    "reader": [{"data": "S0VZPXZhbHVlCg=="}, {"errno": 13}],
    "registration": {
        "instances": [{"id": "istio-hostagent:web:10.0.0.7:80", "outcome": "registered"}],
        "error": ERROR,
    },
    "second_reader": {"observed": exchange.to_json(model.Observed())},
    "hotrestart": {"running": "11.104", "offered": "disabled"},
    "served": {"serials": ["2e26", "1"]},
    "takeover": {
        "found": [{"rules": 23, "author": "istio-iptables", "place": "iptables-nft"}],
        "left": [],
        "error": ERROR,
    },
    "xtables": {"error": ERROR},
}
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([1e300, -1, 10**400, "a\nb", "\x1b[2J", "\ud800", "x" * 5000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def read(module: str, value: Any) -> Any:
    return read_bytes(module, json.dumps(value).encode(), REQUESTS[module])


def read_bytes(module: str, data: bytes, request: Any) -> Any:
    return formats.read(formats.find(module), data, request)


def certificate(**changed: Any) -> Any:
    return read("certificate", {"held": HELD | changed})


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a value."""
    found = [here]
    inner: dict[Any, Any] = {}
    if isinstance(value, dict | list):
        inner = value if isinstance(value, dict) else dict(enumerate(value))
    for key, each in inner.items():
        found += paths(each, (*here, key))
    return found


def put(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """A copy of a value with another one at this place."""
    if not path:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], other)
    return copy


def use(module: str, answer: Any) -> None:
    """Do with an answer what the agent does: compute with its numbers, print its words."""
    if module != "certificate":
        repr(answer).encode()
        return
    if answer.error is not None:
        assert answer.error.text.isprintable()
    if answer.held is not None:
        value = rotation.obtained(
            rotation.configured(), answer.held, 1_700_000_000.0, jitter=0.0, ratio=0.5
        )
        value = rotation.failed(
            value, rotation.Failure("x", "y"), value.next_at, jitter=1.0, held=None
        )
        fields.moment(answer.held.not_after)
        fields.moment(value.next_at)
        f"{answer.held.identity}{answer.held.serial}{answer.via}".encode()
        assert answer.held.identity.isprintable()


def test_every_worker_has_a_format() -> None:
    modules = {path.stem for path in Path(processes.PACKAGE, "workers").glob("*.py")}
    programs = {
        name
        for name in modules
        if "\ndef main()" in Path(processes.PACKAGE, "workers", f"{name}.py").read_text()
    }
    # These outlive whoever started them, who waits for no answer.
    programs -= {"fallback", "metrics", "secrets", "resolver", "proxy"}
    assert programs == GOOD.keys()
    for name in programs:
        assert formats.find(name).max_bytes > 0


class TestWhatFits:
    def test_a_certificate(self) -> None:
        answer = read("certificate", GOOD["certificate"])
        assert answer.held == rotation.Report(
            "spiffe://cluster.local/ns/default/sa/default",
            "2e26",
            1_700_000_000.0,
            1_700_086_400.0,
            1_700_000_120.5,
        )
        assert answer.error == rotation.Failure("certificate-refused", "no such account", "")
        assert (answer.is_obtained, answer.via) == (True, "token")

    def test_nothing_held(self) -> None:
        assert read("certificate", {"held": None}) == certificates.Certificate()

    def test_a_certificate_without_an_end(self) -> None:
        use("certificate", certificate(not_before=0, not_after=checks.LAST_MOMENT))

    def test_probe_sockets(self) -> None:
        assert read("probe_sockets", GOOD["probe_sockets"]).errnos == (0, 97, 1, 2)

    def test_what_a_proxy_shows(self) -> None:
        assert read("served", GOOD["served"]).serials == ("2e26", "1")
        assert read("served", {"serials": []}).serials == ()
        assert read("served", {"error": ERROR}).error.message == "no such account"

    def test_what_takes_over_from_an_envoy(self) -> None:
        found = read("hotrestart", GOOD["hotrestart"])
        assert (found.running, found.offered, found.error) == ("11.104", "disabled", None)
        assert read("hotrestart", {"error": ERROR}).error.message == "no such account"
        for is_ready in (True, False):
            data = json.dumps({"is_ready": is_ready}).encode()
            assert read_bytes("hotrestart", data, {"task": "await"}).is_ready is is_ready

    def test_files(self) -> None:
        assert read("reader", GOOD["reader"]) == (
            reader.FileRead(b"KEY=value\n"),
            reader.FileRead(errno=13),
        )

    def test_the_largest_files_that_are_read(self) -> None:
        data = base64.b64encode(bytes(files.MAX_BYTES)).decode()
        request = ("/a", "/b", "/c")
        value = json.dumps([{"data": data}] * 3).encode()
        assert len(read_bytes("reader", value, request)) == 3

    def test_a_second_reading(self) -> None:
        assert read("second_reader", GOOD["second_reader"]).observed == model.Observed()

    def test_a_second_reading_of_ten_thousand_networks_in_three_tables(self) -> None:
        networks = ((i << 12, (i << 12) + 127) for i in range(10_000))
        sets = (model.make_set("many", model.SetKind.IPV4, networks),)
        tables = tuple(model.TableState(name, sets, ()) for name in model.OUR_TABLES)
        observed = model.Observed(tables)
        answer = read("second_reader", {"observed": exchange.to_json(observed)})
        assert answer.observed == observed

    def test_words_of_a_ca_become_one_line(self) -> None:
        message = "denied:\n\x1b[31mno\x00 " + "é" * 5000
        answer = read("certificate", {"held": None, "error": ERROR | {"message": message}})
        said = answer.error.message
        assert said.startswith("denied: ?[31mno? é")
        assert len(said) == 1000
        assert said.isprintable()


class TestWhatDoesNot:
    @pytest.mark.parametrize("key", ["not_before", "not_after", "received"])
    @pytest.mark.parametrize("value", [1e300, -1, 10**400, "1700000000", True, None, [], 3e11])
    def test_moments_that_no_calendar_has(self, key: str, value: Any) -> None:
        with pytest.raises(checks.Wrong, match=f"held.{key}"):
            certificate(**{key: value})

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
    def test_numbers_that_are_none(self, value: str) -> None:
        data = json.dumps({"held": HELD}).replace("1700086400.0", value).encode()
        with pytest.raises(checks.Wrong, match="no JSON"):
            read_bytes("certificate", data, {})

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("identity", "spiffe://a\nSTATUS=fine"),
            ("identity", ""),
            ("identity", "x" * 3000),
            ("identity", "\ud800"),
            ("serial", "2E26\n"),
            ("serial", ""),
            ("obtained", 1),
            ("copied", "no"),
            ("via", "hearsay"),
            ("not_after", 1_600_000_000),
        ],
    )
    def test_fields_of_another_form(self, key: str, value: Any) -> None:
        with pytest.raises(checks.Wrong, match=f"held.{key}"):
            certificate(**{key: value})

    @pytest.mark.parametrize("key", ["identity", "serial", "not_before", "not_after", "received"])
    def test_fields_that_are_missing(self, key: str) -> None:
        with pytest.raises(checks.Wrong, match=f"held.{key}"):
            read("certificate", {"held": {k: v for k, v in HELD.items() if k != key}})

    @pytest.mark.parametrize("code", ["", "two words", "CODE", "x" * 100, 3, None])
    def test_errors_without_a_name(self, code: Any) -> None:
        with pytest.raises(checks.Wrong, match=r"error\.code"):
            read("certificate", {"error": ERROR | {"code": code}})

    @pytest.mark.parametrize("wrong", [-1, 5000, "1", None, True, 1.0])
    def test_errors_of_probe_sockets(self, wrong: Any) -> None:
        with pytest.raises(checks.Wrong, match="errnos is not a number"):
            read("probe_sockets", {"errnos": [0, 0, 0, wrong]})
        with pytest.raises(checks.Wrong, match="list of 4"):
            read("probe_sockets", {"errnos": [0]})

    @pytest.mark.parametrize(
        "wrong", [{}, {"data": 3}, {"data": "*"}, {"data": "é"}, {"errno": 5000}, {"errno": "13"}]
    )
    def test_files(self, wrong: Any) -> None:
        with pytest.raises(checks.Wrong, match="file"):
            read("reader", [{"errno": 2}, wrong])

    @pytest.mark.parametrize(
        "wrong",
        [
            None,
            {},
            "2e26",
            ["2E26"],
            ["0x1"],
            [""],
            ["1\n"],
            [7],
            [["1"]],
            ["1" * 300],
            ["1"] * 33,
        ],
    )
    def test_what_a_proxy_shows(self, wrong: Any) -> None:
        with pytest.raises(checks.Wrong, match="serials"):
            read("served", {"serials": wrong})

    @pytest.mark.parametrize("wrong", ["", "11 104", "x" * 41, "11.104\n", 11, None])
    def test_a_version_of_the_hot_restart(self, wrong: Any) -> None:
        with pytest.raises(checks.Wrong, match="offered"):
            read("hotrestart", {"running": "11.104", "offered": wrong})
        with pytest.raises(checks.Wrong, match="is_ready"):
            read_bytes("hotrestart", b'{"is_ready": 1}', {"task": "await"})

    def test_a_file_that_is_too_long(self) -> None:
        data = base64.b64encode(bytes(files.MAX_BYTES + 1)).decode()
        with pytest.raises(checks.Wrong, match="longer than"):
            read("reader", [{"errno": 2}, {"data": data}])

    @pytest.mark.parametrize("module", GOOD)
    def test_texts_that_are_too_long_or_no_json(self, module: str) -> None:
        most = formats.find(module).max_bytes
        for data in (
            b" " * (most + 1),
            b"",
            b"\xff",
            b"\xef\xbb\xbf[]",
            b"[" * 900,
            b"[" * 100_000,
        ):
            with pytest.raises(checks.Wrong):
                read_bytes(module, data, REQUESTS[module])


@pytest.mark.parametrize("module", GOOD)
@given(st.data())
def test_any_value_anywhere_is_refused_or_harmless(module: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(paths(GOOD[module])))
    value = put(GOOD[module], path, data.draw(anything))
    try:
        answer = read(module, value)
    except checks.Wrong as error:
        said = str(error)
    else:
        said = ""
        use(module, answer)
    assert not said or said.isprintable()
    assert len(said) < 500


@pytest.mark.parametrize("module", GOOD)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(module: str, data: bytes) -> None:
    try:
        read_bytes(module, data, REQUESTS[module])
    except checks.Wrong:
        return
    assert module == "certificate"
    assert json.loads(data).keys() <= {"held", "error"} or not json.loads(data)
