"""The login server under hostile peers: at every stage of the conversation, over a real socket.

Whatever is wrong is answered by one fixed error, or by the end of the connection, and the server lives on.
"""

import json
import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.login.conversation import TRANSITIONS, Phase
from common.roles.auth_server.auth_server import AuthServer
from common.wire import login
from common.wire.frames import encode_frame
from common.wire.login import ErrorCode
from common.wire.login_codec import encode
from tests.net.login_peer import PASSWORD, Ended, LoginPeer, Refused, new_verifier, parts, serving
from tests.unit.wire.test_login import EXAMPLES

BAD = login.Error(ErrorCode.BAD_REQUEST)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthServer]:
    folder: Path = tmp_path_factory.mktemp("login")
    with serving(folder) as running:
        with LoginPeer(running.address) as peer:
            peer.hello()
            peer.sign_up("alice")
        yield running


def greeting(_: LoginPeer) -> None:
    """Nothing was said yet."""


def stranger(peer: LoginPeer) -> None:
    peer.hello()


def challenged(peer: LoginPeer) -> None:
    peer.hello()
    peer.ask(login.Scram(peer.scram("alice").first()), login.Challenge)


def in_session(peer: LoginPeer) -> None:
    peer.hello()
    peer.log_in("alice")


def proving(peer: LoginPeer) -> None:
    in_session(peer)
    peer.ask(login.Scram(peer.scram("alice").first()), login.Challenge)


STAGES: dict[Phase, Callable[[LoginPeer], None]] = {
    Phase.GREETING: greeting,
    Phase.STRANGER: stranger,
    Phase.CHALLENGED: challenged,
    Phase.MEMBER: in_session,
    Phase.PROVING: proving,
}


def body(**members: object) -> bytes:
    return encode_frame(json.dumps(members).encode())


NOT_MESSAGES: dict[str, bytes] = {
    "huge": (2**32 - 1).to_bytes(4, "big"),
    "too large by one": (login.MAX_FRAME + 1).to_bytes(4, "big"),
    "empty": encode_frame(b""),
    "not UTF-8": encode_frame(b'{"type":"hello","version":"\xff\xfe"}'),
    "half a surrogate pair": encode_frame(b'{"type":"send","to":"\\ud800","text":""}'),
    "no JSON": encode_frame(b"\x00\x01\x02"),
    "a list": encode_frame(b"[]"),
    "nested": encode_frame(b"[" * 60_000),
    "a large number": encode_frame(b'{"type":"hello","version":' + b"1" * 60_000 + b"}"),
    "a name twice": encode_frame(b'{"type":"ping","type":"ping"}'),
    "no type": body(version=1),
    "unknown": body(type="sudo"),
    "a type that is no text": body(type=["hello"]),
    "a control character in the type": body(type="ping\x00"),
    "a field more": body(type="ping", extra=1),
    "a field less": body(type="scram", data="eA=="),
    "an ill-typed field": body(type="hello", version="1"),
    "bad base64": body(type="scram", data="e", device=""),
    "an empty proof": body(type="proof", data=""),
    "a large proof": body(type="proof", data="QUFB" * 4_000),
    "garbage": random.Random(7).randbytes(3_000),
}


def lives_on(server: AuthServer) -> None:
    with LoginPeer(server.address) as peer:
        in_session(peer)
        peer.ask(login.LogOut(), login.Ok)


@pytest.mark.parametrize("phase", Phase)
def test_what_is_no_message_is_a_fixed_error_at_every_stage(server: AuthServer, phase: Phase) -> None:
    for name, data in NOT_MESSAGES.items():
        with LoginPeer(server.address) as peer:
            STAGES[phase](peer)
            peer.sock.sendall(data)
            assert peer.answer() == BAD, name
            assert peer.is_over(), name
    lives_on(server)


@pytest.mark.parametrize("phase", Phase)
def test_a_message_out_of_order_is_a_fixed_error_at_every_stage(server: AuthServer, phase: Phase) -> None:
    for message in EXAMPLES:
        if (phase, type(message)) in TRANSITIONS:
            continue
        with LoginPeer(server.address) as peer:
            STAGES[phase](peer)
            peer.send(message)
            assert peer.answer() == BAD, message
            assert peer.is_over(), message
    lives_on(server)


@pytest.mark.parametrize("phase", Phase)
def test_a_truncated_message_is_the_end_of_its_connection_only(server: AuthServer, phase: Phase) -> None:
    whole = encode(login.Ping())
    for cut in (1, 3, 4, len(whole) - 1):
        with LoginPeer(server.address) as peer:
            STAGES[phase](peer)
            peer.sock.sendall(whole[:cut])
    lives_on(server)


BAD_SCRAM = {
    "empty": b"x",
    "NUL": b"p=tls-server-end-point,,n=ali\x00ce,r=abcdefghijklmnopqrstuvwx",
    "control": b"p=tls-server-end-point,,n=\x07,r=abcdefghijklmnopqrstuvwx",
    "no name": b"p=tls-server-end-point,,n=,r=abcdefghijklmnopqrstuvwx",
    "not UTF-8": b"p=tls-server-end-point,,n=\xff\xfe,r=abcdefghijklmnopqrstuvwx",
    "no binding": b"n,,n=alice,r=abcdefghijklmnopqrstuvwx",
    "another binding": b"p=tls-unique,,n=alice,r=abcdefghijklmnopqrstuvwx",
    "for another": b"p=tls-server-end-point,a=bob,n=alice,r=abcdefghijklmnopqrstuvwx",
    "mandatory": b"p=tls-server-end-point,,m=1,n=alice,r=abcdefghijklmnopqrstuvwx",
    "no nonce": b"p=tls-server-end-point,,n=alice,r=",
    "a long name": b"p=tls-server-end-point,,n=" + b"a" * 1_500 + b",r=abcdefghijklmnopqrstuvwx",
    "order": b"p=tls-server-end-point,,r=abcdefghijklmnopqrstuvwx,n=alice",
}


@pytest.mark.parametrize("data", BAD_SCRAM.values(), ids=BAD_SCRAM)
def test_a_bad_first_message_is_a_fixed_error(server: AuthServer, data: bytes) -> None:
    with LoginPeer(server.address) as peer:
        peer.hello()
        peer.send(login.Scram(data))
        assert peer.answer() == BAD
        assert peer.is_over()
    lives_on(server)


@pytest.mark.parametrize("name", ["a b", "аlice", "a" * 65, "\N{SNOWMAN}", "x/y", "a--b"])  # noqa: RUF001
def test_a_name_that_nobody_can_have_is_wrong_like_any_other(server: AuthServer, name: str) -> None:
    with LoginPeer(server.address) as peer:
        peer.hello()
        with pytest.raises(Refused, match="wrong"):
            peer.log_in(name)
    lives_on(server)


BAD_PROOFS = {
    "text": b"x",
    "NUL": b"\x00" * 100,
    "not UTF-8": b"\xff" * 100,
    "no proof": b"c=cD10bHM=,r=abc",
    "a short proof": b"c=cD10bHM=,r=abc,p=AAAA",
    "a long proof": b"c=cD10bHM=,r=abc,p=" + b"A" * 1_000,
    "only commas": b"," * 2_000,
}


@pytest.mark.parametrize("data", BAD_PROOFS.values(), ids=BAD_PROOFS)
def test_a_bad_proof_is_wrong_like_any_other(server: AuthServer, data: bytes) -> None:
    with LoginPeer(server.address) as peer:
        peer.hello()
        peer.sign_up("user" + data[:8].hex() + str(len(data)))
        peer.ask(login.Scram(peer.scram("nobody" + data[:8].hex()).first()), login.Challenge)
        with pytest.raises(Refused, match="wrong"):
            peer.ask(login.Proof(data), login.Done)
    lives_on(server)


@pytest.mark.parametrize("name", ["", "a\x00b", "a\x1b[31mb", "x" * 10_000, "b\u0430d", "\u202e", "alice\u200d"])
def test_a_bad_name_at_sign_up_is_a_fixed_error(server: AuthServer, name: str) -> None:
    with LoginPeer(server.address) as peer:
        peer.hello()
        peer.send(login.SignUp(name, *parts(new_verifier())))
        answer = peer.answer()
        allowed = {ErrorCode.BAD_NAME, ErrorCode.NAME_TAKEN, ErrorCode.BAD_REQUEST}
        assert isinstance(answer, login.Error) and answer.code in allowed
    lives_on(server)


@pytest.mark.parametrize(
    "password", ["x" * 1_000, "\N{SNOWMAN} \N{GREEK SMALL LETTER OMEGA}", " ", "a\u00a0b", "%s%n{0}"]
)
def test_odd_passwords_log_in_as_any_other(server: AuthServer, password: str) -> None:
    name = f"odd{len(password)}{ord(password[0])}"
    with LoginPeer(server.address) as peer:
        peer.hello()
        peer.sign_up(name, password)
        peer.log_in(name, password)


def test_noise_at_random_moments_never_breaks_the_server(
    server: AuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Some hundred messages and pieces of noise in any order: answers are messages, and the log has no traceback."""
    caplog.set_level(logging.DEBUG)
    draw = random.Random(11)
    lasting = (login.Rekey, login.Delete)  # legal in a session, and then the next one could not begin
    messages = [encode(message) for message in EXAMPLES if not isinstance(message, lasting)]
    noise = [*NOT_MESSAGES.values(), *messages]
    for _ in range(60):
        with LoginPeer(server.address) as peer:
            draw.choice(list(STAGES.values()))(peer)
            try:
                for _ in range(draw.randrange(1, 6)):
                    data = draw.choice(noise)
                    if draw.random() < 0.3:
                        data = bytes(byte ^ (draw.random() < 0.02) for byte in data[:2_000])
                    peer.sock.sendall(data)
                while True:
                    peer.sock.settimeout(0.02)
                    peer.receive()
            except (Ended, OSError):
                pass
    with LoginPeer(server.address) as peer:
        peer.hello()
        peer.sign_up("survivor")
        peer.log_in("survivor")
    assert "Traceback" not in caplog.text
    assert PASSWORD not in caplog.text
