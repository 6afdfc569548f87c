"""What a client of the secret server gets and when, in each of the three calls."""

import pytest

from istio_hostagent import protobuf
from istio_hostagent.sds import connection, secrets
from tests.lab import sds

FIRST = secrets.make(b"-key-1-", b"-chain-1-", b"-root-1-")
NEXT = secrets.make(b"-key-2-", b"-chain-2-", b"-root-1-")
OTHER_ROOT = secrets.make(b"-key-3-", b"-chain-3-", b"-root-2-")


class Talk:
    """A client and its server in memory."""

    def __init__(self, held: secrets.Secrets = FIRST) -> None:
        self.remarks: list[str] = []
        self.client = sds.Client()
        self.served = connection.Connection(held, self.remarks.append)

    def open(self, method: str) -> int:
        stream = self.client.open(method)
        self.run()
        return stream

    def say(self, stream: int, message: bytes, *, is_end: bool = False) -> list[bytes]:
        """Send a message and give all that the call has brought so far."""
        self.client.send(stream, message, is_end=is_end)
        self.run()
        return self.client.messages[stream]

    def push(self, held: secrets.Secrets) -> None:
        self.served.push(held)
        self.run()

    def run(self) -> None:
        sds.exchange(self.client, self.served)

    def status(self, stream: int) -> str:
        return self.client.trailers[stream]["grpc-status"]


def inline(*path: int, text: bytes) -> bytes:
    for number in reversed(path):
        text = protobuf.render_bytes(number, text)
    return text


def test_the_messages_are_those_of_the_protocol_byte_for_byte() -> None:
    talk = Talk(secrets.make(b"K", b"C", b"R"))
    stream = talk.open(sds.STREAM)
    (response,) = talk.say(stream, sds.request(b"ROOTCA"))
    secret = b"\x0a\x06ROOTCA\x22\x05\x0a\x03\x12\x01R"
    packed = b"\x0a\x44" + secrets.TYPE + b"\x12" + bytes((len(secret),)) + secret
    assert len(secrets.TYPE) == 0x44
    assert b"\x12" + bytes((len(packed),)) + packed in response
    assert response.endswith(b"\x22\x44" + secrets.TYPE + b"\x2a\x011")
    (pair,) = talk.say(talk.open(sds.STREAM), sds.request(b"default"))
    assert b"\x0a\x07default\x12\x0a\x0a\x03\x12\x01C\x12\x03\x12\x01K" in pair


def test_state_of_the_world_gets_what_it_asks_for_and_each_change_once() -> None:
    talk = Talk()
    stream = talk.open(sds.STREAM)
    (first,) = talk.say(stream, sds.request(b"default", b"ROOTCA"))
    assert sds.found(first) == {
        b"default": inline(1, 2, text=b"-chain-1-") + inline(2, 2, text=b"-key-1-"),
        b"ROOTCA": inline(1, 2, text=b"-root-1-"),
    }
    nonce = sds.nonce_of(first)
    assert talk.say(stream, sds.request(b"default", b"ROOTCA", nonce=nonce)) == [first]
    talk.push(NEXT)
    talk.push(NEXT)
    assert len(talk.client.messages[stream]) == 2
    # All that is wanted is in each answer, also what has not changed.
    assert set(sds.found(talk.client.messages[stream][1])) == {b"default", b"ROOTCA"}
    assert b"-key-2-" in sds.found(talk.client.messages[stream][1])[b"default"]


def test_a_change_of_the_certificate_alone_says_nothing_to_who_wants_the_roots() -> None:
    talk = Talk()
    stream = talk.open(sds.STREAM)
    talk.say(stream, sds.request(b"ROOTCA"))
    talk.push(NEXT)
    assert len(talk.client.messages[stream]) == 1
    talk.push(OTHER_ROOT)
    assert b"-root-2-" in talk.client.messages[stream][1]


def test_who_comes_before_the_first_certificate_gets_it_when_it_is_there() -> None:
    talk = Talk({})
    stream = talk.open(sds.STREAM)
    assert talk.say(stream, sds.request(b"default")) == []
    talk.push(FIRST)
    assert len(talk.client.messages[stream]) == 1


def test_names_that_are_added_and_dropped_later_count() -> None:
    talk = Talk()
    stream = talk.open(sds.STREAM)
    (first,) = talk.say(stream, sds.request(b"default"))
    *_, second = talk.say(stream, sds.request(b"default", b"ROOTCA", nonce=sds.nonce_of(first)))
    assert set(sds.found(second)) == {b"default", b"ROOTCA"}
    talk.say(stream, sds.request(nonce=sds.nonce_of(second)))
    talk.push(OTHER_ROOT)
    assert len(talk.client.messages[stream]) == 2


def test_a_word_about_an_answer_that_is_overtaken_changes_nothing() -> None:
    talk = Talk()
    stream = talk.open(sds.STREAM)
    (first,) = talk.say(stream, sds.request(b"default"))
    talk.push(NEXT)
    assert len(talk.say(stream, sds.request(nonce=sds.nonce_of(first)))) == 2
    talk.push(OTHER_ROOT)
    assert len(talk.client.messages[stream]) == 3


def test_a_refused_secret_is_told_and_not_sent_again_until_it_changes() -> None:
    talk = Talk()
    stream = talk.open(sds.STREAM)
    (first,) = talk.say(stream, sds.request(b"default"))
    nonce = sds.nonce_of(first)
    refusal = sds.request(b"default", nonce=nonce, error="Failed to load <inline>\n\x1b[1m")
    assert talk.say(stream, refusal) == [first]
    assert talk.remarks == ["the client refuses what it was sent: Failed to load <inline>??[1m"]
    talk.push(NEXT)
    assert len(talk.client.messages[stream]) == 2


def test_what_a_client_says_that_looks_like_a_key_is_not_repeated() -> None:
    talk = Talk()
    stream = talk.open(sds.STREAM)
    talk.say(stream, sds.request(b"default", error="bad -----BEGIN PRIVATE KEY----- AAAA"))
    assert talk.remarks == ["the client refuses what it was sent: (not shown: it holds a key)"]


def test_a_name_that_is_not_here_is_told() -> None:
    talk = Talk()
    stream = talk.open(sds.STREAM)
    assert talk.say(stream, sds.request(b"kubernetes://gateway")) == []
    assert talk.remarks == ["the client asks for what is not here: kubernetes://gateway"]


def test_delta_gets_only_what_has_changed() -> None:
    talk = Talk()
    stream = talk.open(sds.DELTA)
    (first,) = talk.say(stream, sds.delta(b"default", b"ROOTCA"))
    assert set(sds.found(first)) == {b"default", b"ROOTCA"}
    assert talk.say(stream, sds.delta(nonce=sds.nonce_of(first))) == [first]
    talk.push(NEXT)
    assert set(sds.found(talk.client.messages[stream][1])) == {b"default"}


def test_delta_gives_up_a_name() -> None:
    talk = Talk()
    stream = talk.open(sds.DELTA)
    talk.say(stream, sds.delta(b"default", b"ROOTCA"))
    talk.say(stream, sds.delta(unwanted=[b"default"]))
    talk.push(NEXT)
    assert len(talk.client.messages[stream]) == 1


def test_delta_comes_back_with_what_it_has_and_gets_the_rest() -> None:
    talk = Talk()
    (first,) = talk.say(talk.open(sds.DELTA), sds.delta(b"default", b"ROOTCA"))
    again = Talk(NEXT)  # the server was started anew
    known = sds.versions(first)
    (response,) = again.say(again.open(sds.DELTA), sds.delta(b"default", b"ROOTCA", known=known))
    assert set(sds.found(response)) == {b"default"}


def test_delta_gets_again_what_it_asks_for_again() -> None:
    talk = Talk()
    stream = talk.open(sds.DELTA)
    talk.say(stream, sds.delta(b"ROOTCA"))
    assert len(talk.say(stream, sds.delta(b"ROOTCA"))) == 2


def test_delta_may_refuse_too() -> None:
    talk = Talk()
    stream = talk.open(sds.DELTA)
    (first,) = talk.say(stream, sds.delta(b"default"))
    talk.say(stream, sds.delta(nonce=sds.nonce_of(first), error="no"))
    assert talk.remarks == ["the client refuses what it was sent: no"]
    assert len(talk.client.messages[stream]) == 1


def test_fetch_is_one_question_and_one_answer() -> None:
    talk = Talk()
    stream = talk.open(sds.FETCH)
    (response,) = talk.say(stream, sds.request(b"default"), is_end=True)
    assert set(sds.found(response)) == {b"default"}
    assert talk.status(stream) == "0"
    assert talk.served.is_idle


@pytest.mark.parametrize("method", [sds.STREAM, sds.DELTA])
def test_a_client_that_says_nothing_more_gets_what_is_due_and_the_end(method: str) -> None:
    talk = Talk()
    stream = talk.open(method)
    ask = sds.request if method == sds.STREAM else sds.delta
    assert len(talk.say(stream, ask(b"ROOTCA"), is_end=True)) == 1
    assert talk.status(stream) == "0"
    assert talk.served.is_idle


@pytest.mark.parametrize(("name", "status"), [(b"default", "14"), (b"other", "5")])
def test_fetch_is_told_what_there_is_not(name: bytes, status: str) -> None:
    talk = Talk({})
    stream = talk.open(sds.FETCH)
    assert talk.say(stream, sds.request(name), is_end=True) == []
    assert talk.status(stream) == status


WRONG = {
    "another type": (sds.request(b"default", kind=b"type.googleapis.com/envoy.Cluster"), "3"),
    "cut short": (b"\x1a\x7f", "3"),
    "wire type": (b"\x1b", "3"),
    "endless number": (b"\xff" * 11, "3"),
    "too many names": (sds.request(*(b"%d" % each for each in range(65))), "3"),
    "broken status": (b"\x32\x01\x0a", "3"),
    "too large": (bytes(connection.MAX_MESSAGE + 1), "8"),
}


@pytest.mark.parametrize(("message", "status"), WRONG.values(), ids=WRONG)
def test_a_wrong_request_ends_its_call_and_no_other(message: bytes, status: str) -> None:
    talk = Talk()
    other, stream = talk.open(sds.STREAM), talk.open(sds.STREAM)
    talk.say(other, sds.request(b"ROOTCA"))
    data = b"\0" + len(message).to_bytes(4, "big") + message
    talk.client.http.send_data(stream, data[:16_000])
    talk.run()
    assert talk.status(stream) == status
    talk.push(OTHER_ROOT)
    assert len(talk.client.messages[other]) == 2


def test_names_of_many_requests_are_bounded() -> None:
    talk = Talk()
    stream = talk.open(sds.DELTA)
    for number in range(65):
        if stream not in talk.client.trailers:
            talk.say(stream, sds.delta(b"%d" % number))
    assert talk.status(stream) == "3"


def test_a_compressed_message_is_refused() -> None:
    talk = Talk()
    stream = talk.open(sds.STREAM)
    talk.client.http.send_data(stream, b"\x01\0\0\0\x01x")
    talk.run()
    assert talk.status(stream) == "12"


def test_an_unknown_method_is_refused() -> None:
    talk = Talk()
    stream = talk.client.open(path="/envoy.service.secret.v3.SecretDiscoveryService/Other")
    talk.run()
    assert talk.status(stream) == "12"


def test_messages_that_never_end_are_bounded_for_all_calls_together() -> None:
    talk = Talk()
    talk.client.is_acknowledging = False
    streams = [talk.open(sds.STREAM) for _ in range(4)]
    begun = b"\0" + connection.MAX_MESSAGE.to_bytes(4, "big")
    for stream in streams:
        talk.client.http.send_data(stream, begun)
    talk.run()
    for _ in range(25):
        for stream in streams:
            if stream not in talk.client.trailers:
                talk.client.http.send_data(stream, bytes(16_000))
                talk.run()
    assert [talk.status(each) for each in streams if each in talk.client.trailers] == ["8"] * 2


def test_a_slow_client_gets_the_last_of_several_changes() -> None:
    talk = Talk()
    talk.client.is_acknowledging = False
    talk.client.http.update_settings({4: 40})
    stream = talk.open(sds.STREAM)
    talk.say(stream, sds.request(b"ROOTCA"))
    for text in (b"-second-", b"-third-", b"-last-"):
        talk.push(secrets.make(b"", b"", text))
    talk.client.http.increment_flow_control_window(10_000, stream)
    talk.run()
    first, last = talk.client.messages[stream]
    assert b"-root-1-" in first and b"-last-" in last


def test_two_texts_of_a_version_are_two_secrets() -> None:
    assert secrets.make(b"k1", b"c", b"r") != secrets.make(b"k2", b"c", b"r")
    assert secrets.make(b"k1", b"c", b"r") == secrets.make(b"k1", b"c", b"r")


def test_nothing_that_prints_a_secret_shows_it() -> None:
    assert "-key-1-" not in repr(FIRST) + str(FIRST[b"default"])
    assert b"-key-1-" not in FIRST[b"default"].version
