"""The names of the mesh: as istiod tells them, and as programs ask for them."""

import json
from ipaddress import ip_address

import pytest

from istio_hostagent import protobuf
from istio_hostagent.names import discovery, messages, table

NAMESPACE, DOMAIN = "vms", "vms.svc.cluster.local"


def info(*ips: str, registry: str = "External", short: str = "", namespace: str = "") -> bytes:
    texts = [(1, ip) for ip in ips] + [(2, registry), (3, short), (4, namespace)]
    return b"".join(protobuf.render_bytes(number, text.encode()) for number, text in texts)


def made(**names: bytes) -> bytes:
    return b"".join(
        protobuf.render_bytes(
            1, protobuf.render_bytes(1, name.encode()) + protobuf.render_bytes(2, value)
        )
        for name, value in names.items()
    )


MESSAGE = made(**{
    "Reviews.shop.example": info("10.96.7.7", "fd00::7"),
    "*.wild.example": info("10.96.7.8"),
    "empty.example": info("nonsense"),
    "web.vms.svc.cluster.local": info(
        "10.96.7.9", registry="Kubernetes", short="web", namespace="vms"
    ),
    "db.other.svc.cluster.local": info(
        "10.96.7.10", registry="Kubernetes", short="db", namespace="other"
    ),
    "x.elsewhere.svc.other.org": info(
        "10.96.7.11", registry="Kubernetes", short="x", namespace="elsewhere"
    ),
})  # fmt: skip


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("reviews.shop.example", "10.96.7.7"),
        ("a.b.wild.example", "10.96.7.8"),
        ("wild.example", None),
        ("empty.example", None),
        ("example", None),
        ("", None),
        ("web.vms.svc.cluster.local", "10.96.7.9"),
        ("web.vms.svc", "10.96.7.9"),
        ("web.vms", "10.96.7.9"),
        ("web", "10.96.7.9"),
        ("db.other", "10.96.7.10"),
        ("db", None),
        ("x.elsewhere.svc.other.org", "10.96.7.11"),
        ("x.elsewhere", None),
    ],
)
def test_a_name_is_found_by_all_its_spellings(name: str, address: str | None) -> None:
    names = table.Table(MESSAGE, NAMESPACE, DOMAIN)
    expected = (ip_address(address).packed,) if address is not None else None
    assert names.find(name, messages.A) == expected


def test_a_known_name_has_addresses_of_each_kind_or_none_and_other_kinds_go_on() -> None:
    names = table.Table(MESSAGE, NAMESPACE, DOMAIN)
    assert names.find("reviews.shop.example", messages.AAAA) == (ip_address("fd00::7").packed,)
    assert names.find("web", messages.AAAA) == ()
    assert names.find("web", 15) is None
    assert len(names) == 10


def test_a_broken_table_is_no_table() -> None:
    with pytest.raises(ValueError, match=r"."):
        table.Table(MESSAGE[:-3], NAMESPACE, DOMAIN)


NODE = {
    "id": "sidecar~10.0.0.2~web.vms~vms.svc.cluster.local",
    "cluster": "rawvm",
    "metadata": {
        "NAMESPACE": "vms",
        "AUTO_REGISTER_GROUP": "web",
        "ENVOY_STATUS_PORT": 15021,
        "LABELS": {"app": "web"},
        "PILOT_SAN": ["a", "b"],
        "FLAG": True,
        "NOTHING": None,
    },
}


def test_the_request_introduces_this_host_and_registers_nobody() -> None:
    request = discovery.render_request(json.loads(json.dumps(NODE)))
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /envoy.service.discovery.v3.Aggregated")
    size, _, chunk = body.partition(b"\r\n")
    assert int(size, 16) == len(chunk) - 2
    assert int.from_bytes(chunk[1:5], "big") == len(chunk) - 7
    fields = dict(protobuf.parse_bytes(chunk[5:-2]))
    assert fields[4] == discovery.TYPE
    node = dict(protobuf.parse_bytes(fields[2]))
    assert node[1].startswith(b"sidecar~10.0.0.2~web.vms")
    metadata = [dict(protobuf.parse_bytes(each)) for _, each in protobuf.parse_bytes(node[3])]
    told = {each[1].decode(): each[2] for each in metadata}
    assert "AUTO_REGISTER_GROUP" not in told
    assert dict(protobuf.parse_bytes(told["DNS_CAPTURE"])) == {3: b"true"}
    assert told["ENVOY_STATUS_PORT"][0] == 0x11  # a number
    assert told["FLAG"] == b"\x20\x01"


def response(message: bytes, nonce: bytes = b"n1") -> bytes:
    resource = protobuf.render_bytes(1, discovery.TYPE) + protobuf.render_bytes(2, message)
    whole = (
        protobuf.render_bytes(1, b"v1")
        + protobuf.render_bytes(2, resource)
        + protobuf.render_bytes(4, discovery.TYPE)
        + protobuf.render_bytes(5, nonce)
    )
    return b"\0" + len(whole).to_bytes(4, "big") + whole


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize("piece", [1, 7, 10**6])
def test_tables_come_in_any_pieces_and_each_is_taken(piece: int) -> None:
    both = response(MESSAGE) + response(b"", b"n2")
    data = HEAD + chunk(both[:9]) + chunk(both[9:30]) + chunk(both[30:])
    stream, tables, answers = discovery.Stream(), [], b""
    for at in range(0, len(data), piece):
        found, answer = stream.receive(data[at : at + piece])
        tables += found
        answers += answer
    assert tables == [MESSAGE, b""]
    assert answers.count(discovery.TYPE) == 2
    assert b"n1" in answers
    assert b"n2" in answers


@pytest.mark.parametrize(
    "data",
    [
        HEAD.replace(b"200 OK", b"503 no"),
        HEAD.replace(b"\r\n\r\n", b"\r\ngrpc-status: 7\r\n\r\n"),
        HEAD.replace(b"Transfer-Encoding: chunked", b"content-length: 0"),
        HEAD + b"0\r\n\r\n",
        HEAD + b"-1\r\n",
        HEAD + b"zz\r\n",
        HEAD + b"9" * 40,
        HEAD + chunk(b"\1\0\0\0\0"),
        HEAD + chunk(b"\0\xff\xff\xff\xff"),
        HEAD + b"fffffff\r\n",
        b"x" * 20000,
    ],
    ids=range(11),
)
def test_what_is_no_stream_of_tables_ends(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        discovery.Stream().receive(data)
