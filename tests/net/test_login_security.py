"""What logging in promises, each promise by its name: recorded, stolen, relayed, guessed, and asked by strangers."""

import base64
import hmac
import logging
import re
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from types import FrameType

import pytest

from common.crypto.scram import GS2_HEADER, ClientFirst
from common.errors import AuthenticationFailed
from common.login.throttle import DEVICE_TRIES, FREE_TRIES, LONGEST_WAIT, TRIES_PER_CONNECTION
from common.net import listener as listener_module
from common.net.tls import client_context, server_context
from common.roles.auth_server.auth_server import AuthServer
from common.wire import login
from common.wire.login import ErrorCode
from tests.helpers import FakeClock
from tests.net.certificates import make_certificate
from tests.net.login_peer import (
    ITERATIONS,
    PATIENCE,
    LoginPeer,
    Refused,
    greeted,
    member,
    serving,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AuthServer]:
    with serving(tmp_path) as running:
        yield running


def signed_up(server: AuthServer, *names: str) -> None:
    for name in names:
        with greeted(server) as peer:
            peer.sign_up(name)


def wrong_try(server: AuthServer, name: str, device: bytes = b"") -> login.Error:
    """The answer to a login with a wrong password."""
    with greeted(server) as peer:
        with pytest.raises(Refused) as caught:
            peer.log_in(name, "a wrong password", device)
    return login.Error(caught.value.code, caught.value.wait)


def recorded(server: AuthServer, name: str) -> tuple[list[bytes], list[bytes]]:
    """A login as its messages: what the client said, what the server said."""
    with greeted(server) as peer:
        client = peer.scram(name)
        first = client.first()
        challenge = peer.ask(login.Scram(first), login.Challenge).data
        final = client.final(challenge)
        done = peer.ask(login.Proof(final), login.Done)
        return [first, final], [challenge, done.data]


# ---- what is recorded ----


def test_two_logins_never_look_alike(server: AuthServer) -> None:
    signed_up(server, "alice")
    (said, heard), (said_again, heard_again) = recorded(server, "alice"), recorded(server, "alice")
    assert not {*said, *heard} & {*said_again, *heard_again}


def test_a_recorded_exchange_replayed_is_refused(server: AuthServer) -> None:
    signed_up(server, "alice")
    (first, final), (challenge, _) = recorded(server, "alice")
    with greeted(server) as thief:
        assert thief.ask(login.Scram(first), login.Challenge).data != challenge
        with pytest.raises(Refused, match="wrong"):
            thief.ask(login.Proof(final), login.Done)


def test_a_challenge_works_once(server: AuthServer) -> None:
    signed_up(server, "alice")
    with greeted(server) as peer:
        client = peer.scram("alice")
        final = client.final(peer.ask(login.Scram(client.first()), login.Challenge).data)
        peer.ask(login.Proof(final), login.Done)
        with pytest.raises(Refused, match="bad_request"):
            peer.ask(login.Proof(final), login.Done)


def test_a_failed_challenge_is_used_up(server: AuthServer) -> None:
    signed_up(server, "alice")
    with greeted(server) as peer:
        client = peer.scram("alice")
        final = client.final(peer.ask(login.Scram(client.first()), login.Challenge).data)
        with pytest.raises(Refused, match="wrong"):
            peer.ask(login.Proof(b"c=,r=x,p="), login.Done)
        with pytest.raises(Refused, match="bad_request"):
            peer.ask(login.Proof(final), login.Done)


def test_a_challenge_works_on_its_connection_only(server: AuthServer) -> None:
    signed_up(server, "alice")
    with greeted(server) as one, greeted(server) as other:
        client = one.scram("alice")
        first = client.first()
        final = client.final(one.ask(login.Scram(first), login.Challenge).data)
        other.ask(login.Scram(first), login.Challenge)
        with pytest.raises(Refused, match="wrong"):
            other.ask(login.Proof(final), login.Done)
        one.ask(login.Proof(final), login.Done)


def test_a_challenge_expires(server: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    signed_up(server, "alice")
    with greeted(server) as peer:
        monkeypatch.setattr("common.roles.auth_server.logins.CHALLENGE_TIME", -1.0)
        with pytest.raises(Refused, match="expired"):
            peer.log_in("alice")
        monkeypatch.undo()
        peer.log_in("alice")


# ---- who stands in the middle, and who pretends ----


def test_a_middle_with_its_own_certificate_fails(server: AuthServer, tmp_path: Path) -> None:
    """It relays every byte of the exchange between two TLS connections, and the proof is worth nothing."""
    signed_up(server, "alice")
    certificate, key, _ = make_certificate(tmp_path)
    listening = socket.create_server(("127.0.0.1", 0))

    def relay() -> None:
        sock, _ = listening.accept()
        with server_context(certificate, key).wrap_socket(sock, server_side=True) as victim:
            upstream = socket.create_connection((server.address.host, server.address.port))
            with client_context().wrap_socket(upstream) as real:
                for _ in range(3):  # hello, scram, proof, each with its answer
                    real.sendall(victim.recv(65_536))
                    victim.sendall(real.recv(65_536))

    middle = threading.Thread(target=relay)
    middle.start()
    address = server.address.__class__("127.0.0.1", listening.getsockname()[1])
    with greeted(address) as peer:
        with pytest.raises(Refused, match="wrong"):
            peer.log_in("alice")
    middle.join(PATIENCE)
    listening.close()


def test_the_server_proves_itself(server: AuthServer) -> None:
    signed_up(server, "alice")
    with greeted(server) as peer:
        peer.log_in("alice")
    with greeted(server) as peer:
        client = peer.scram("alice")
        challenge = peer.ask(login.Scram(client.first()), login.Challenge)
        done = peer.ask(login.Proof(client.final(challenge.data)), login.Done)
        with pytest.raises(AuthenticationFailed):
            client.verify(b"v=" + base64.b64encode(bytes(32)))
        assert done.data.startswith(b"v=")


# ---- what is stolen ----


def test_a_stolen_database_does_not_log_in(server: AuthServer, tmp_path: Path) -> None:
    with member(server, "alice"):
        pass
    with closing(sqlite3.connect(f"file:{tmp_path}/users.sqlite?mode=ro", uri=True)) as stolen:
        row = stolen.execute("SELECT stored_key, server_key, salt FROM users").fetchone()
        (secret,) = stolen.execute("SELECT value FROM secret").fetchone()
        (device,) = stolen.execute("SELECT token FROM devices").fetchone()
        (session,) = stolen.execute("SELECT max(id) FROM sessions").fetchone()
    for client_key in (*row[:2], row[2].ljust(32, b"\0"), secret):
        with greeted(server) as thief:
            first = GS2_HEADER + b"n=alice,r=abcdefghijklmnopqrstuvwx"
            challenge = thief.ask(login.Scram(first), login.Challenge).data
            nonce = challenge.partition(b",")[0]
            bare = b"c=%b,%b" % (base64.b64encode(GS2_HEADER + thief.binding), nonce)
            signed = b",".join((ClientFirst.parse(first).bare, challenge, bare))
            signature = hmac.digest(row[0], signed, sha256)
            proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
            with pytest.raises(Refused, match="wrong"):
                thief.ask(login.Proof(bare + b",p=" + base64.b64encode(proof)), login.Done)
    for _ in range(2):  # a token's hash is no token: the stranger's tries are used up as before
        wrong_try(server, "alice", device)
    assert wrong_try(server, "alice", device).code is ErrorCode.SLOW_DOWN
    assert session is None or isinstance(session, str)


def test_no_password_no_proof_and_no_token_is_in_the_database_or_a_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    password, mistyped = "Xyzzy-plugh-42", "Plover-7-in-the-name-field"
    secrets: list[bytes] = [password.encode(), mistyped.encode(), mistyped.lower().encode(), b"wrong-horse"]
    with serving(tmp_path) as server, greeted(server) as peer:
        peer.sign_up("a-name-to-look-for", password)
        for name, tried in ((mistyped, password), ("a-name-to-look-for", "wrong-horse")):
            with greeted(server) as stranger, pytest.raises(Refused, match="wrong"):
                stranger.log_in(name, tried)
        client = peer.scram("a-name-to-look-for", password)
        challenge = peer.ask(login.Scram(client.first()), login.Challenge).data
        final = client.final(challenge)
        done = peer.ask(login.Proof(final), login.Done)
        proof = final.rpartition(b"p=")[2]
        secrets += [proof, base64.b64decode(proof), done.device, base64.b64encode(done.device), done.data]
        stored = client.verifier.stored_key
        peer.send(login.Hello(1))
        peer.is_over()
        live = [path.read_bytes() for path in tmp_path.glob("users.sqlite*")]
    files = [*live, (tmp_path / "users.sqlite").read_bytes()]
    said = caplog.text.encode()
    assert any(stored in data for data in files), "the search finds what is there"
    for secret in (*secrets, done.device.hex().encode()):
        assert not [data for data in files if secret in data]
        assert secret not in said
    assert b"a-name-to-look-for" not in said
    assert b"127.0.0.1" not in said


# ---- who guesses, and whom ----


def traced(server: AuthServer, name: str) -> tuple[list[login.Message], list[str], list[str]]:
    """A failed login: the answers, the statements that SQLite ran, and the functions of ours that ran."""
    statements: list[str] = []
    calls: list[str] = []
    own = ("logins", "requests", "user_store")
    looked_at = (*(f"auth_server/{name}.py" for name in own), "scram.py", "throttle.py", "names.py")

    def profile(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        ours = code.co_filename.endswith(looked_at) and not code.co_name.startswith("<")
        if event == "call" and ours and re.fullmatch("login [0-9]+", threading.current_thread().name):
            calls.append(code.co_name)

    database = server._database
    connections = (database._lasting, database._passing, database._reading)
    answers: list[login.Message] = []
    threading.setprofile(profile)
    try:
        with greeted(server) as peer:
            for connection in connections:
                connection.set_trace_callback(statements.append)
            client = peer.scram(name, "a wrong password")
            peer.send(login.Scram(client.first()))
            answers.append(peer.answer())
            assert isinstance(answers[0], login.Challenge)
            peer.send(login.Proof(client.final(answers[0].data)))
            answers.append(peer.answer())
    finally:
        threading.setprofile(None)
        for connection in connections:
            connection.set_trace_callback(None)
    values = re.compile(r"'[^']*'|[xX]'[0-9A-Fa-f]*'|-?\b\d+(\.\d+)?(e[+-]?\d+)?\b")
    return answers, [values.sub("?", statement) for statement in statements], calls


def test_unknown_and_known_users_get_answers_of_the_same_form_by_the_same_path(
    server: AuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.roles.auth_server.auth_server.LOOK", PATIENCE)  # the watcher reads the same database
    monkeypatch.setattr("common.roles.auth_server.auth_server.HOUSEKEEPING", PATIENCE)
    signed_up(server, "alice")
    known, its_statements, its_calls = traced(server, "alice")
    nobody, same_statements, same_calls = traced(server, "nobod")
    forms = []
    for challenge, error in (known, nobody):
        assert isinstance(challenge, login.Challenge)
        nonce, salt, iterations = challenge.data.split(b",")
        forms.append((len(nonce), len(salt), iterations, error))
    assert forms[0] == forms[1]
    assert forms[0][3] == login.Error(ErrorCode.WRONG)
    relevant = [each for each in its_statements if "users WHERE" in each or "tries" in each or "devices" in each]
    assert len(relevant) >= 5
    assert relevant == [
        each for each in same_statements if "users WHERE" in each or "tries" in each or "devices" in each
    ]
    assert its_calls == same_calls
    assert {"find", "decoy_verifier", "admit", "finish"} <= set(its_calls)


def asked(server: AuthServer, name: str) -> tuple[bytes, int]:
    """The salt and the iterations that anybody is told."""
    with greeted(server) as peer:
        challenge = peer.ask(login.Scram(peer.scram(name).first()), login.Challenge).data
    _, salt, iterations = challenge.split(b",")
    return salt, int(iterations.removeprefix(b"i="))


def test_a_name_that_nobody_has_keeps_its_salt_and_its_iterations_rise_as_those_of_users(tmp_path: Path) -> None:
    names = [f"nobody{number}" for number in range(20)]

    def sign_up(server: AuthServer, *users: tuple[str, int]) -> None:
        with greeted(server) as peer:
            for name, iterations in users:
                peer.iterations = iterations
                peer.sign_up(name)
        server._logins.look_around()

    with serving(tmp_path) as server:
        sign_up(server, ("one", ITERATIONS), ("two", ITERATIONS))
        seen = [[asked(server, name) for name in names]]
    with serving(tmp_path, iterations=2 * ITERATIONS) as server:
        seen.append([asked(server, name) for name in names])
        assert seen[1] == seen[0], "not at once: no user has logged in yet"
        sign_up(server, ("new", 2 * ITERATIONS), ("other", 2 * ITERATIONS))
        seen.append([asked(server, name) for name in names])
        assert {iterations for _, iterations in seen[2]} == {ITERATIONS, 2 * ITERATIONS}
        sign_up(server, ("odd", 7 * ITERATIONS), ("low", ITERATIONS), ("lower", ITERATIONS), ("lowest", ITERATIONS))
        seen.append([asked(server, name) for name in names])
    with serving(tmp_path, iterations=2 * ITERATIONS) as server:
        seen.append([asked(server, name) for name in names])
    for history in zip(*seen, strict=True):
        assert len({salt for salt, _ in history}) == 1
        counts = [iterations for _, iterations in history]
        assert counts == sorted(counts), "the count of a user never falls"
        assert counts[2:] == [counts[2]] * 3, "counts that the server never asked for do not move it"
    assert len({salt for salt, _ in seen[0]}) == len(names)


def test_tries_are_few_and_then_slow_for_known_and_unknown_names(tmp_path: Path) -> None:
    clock = FakeClock()
    with serving(tmp_path, wall=clock) as server:
        signed_up(server, "alice")
        for name in ("alice", "nobody"):
            assert [wrong_try(server, name) for _ in range(FREE_TRIES)] == [
                login.Error(ErrorCode.WRONG)
            ] * FREE_TRIES
            waits = []
            for _ in range(7):
                error = wrong_try(server, name)
                assert error.code is ErrorCode.SLOW_DOWN
                waits.append(error.wait)
                clock.advance(error.wait)
                assert wrong_try(server, name).code is ErrorCode.WRONG
            assert waits == [1, 2, 4, 8, 16, LONGEST_WAIT, LONGEST_WAIT]


def test_many_tries_at_the_same_time_win_nothing(tmp_path: Path) -> None:
    with serving(tmp_path, wall=FakeClock()) as server:
        signed_up(server, "alice")
        peers = []
        for _ in range(3 * FREE_TRIES):
            peer = LoginPeer(server.address)
            peer.hello()
            client = peer.scram("alice", "a wrong password")
            peers.append((peer, client.final(peer.ask(login.Scram(client.first()), login.Challenge).data)))
        for peer, final in peers:
            peer.send(login.Proof(final))
        answers = [peer.answer() for peer, _ in peers]
        for peer, _ in peers:
            peer.close()
        assert answers.count(login.Error(ErrorCode.WRONG)) == FREE_TRIES
        assert answers.count(login.Error(ErrorCode.SLOW_DOWN, 1)) == 2 * FREE_TRIES


def test_a_connection_has_few_tries(server: AuthServer) -> None:
    with greeted(server) as peer:
        for number in range(TRIES_PER_CONNECTION):
            with pytest.raises(Refused, match="wrong"):
                peer.log_in(f"nobody{number}")
        with pytest.raises(Refused, match="too_many_tries"):
            peer.log_in("nobody")
        assert peer.is_over()


def test_strangers_do_not_lock_out_an_owner_with_a_device_token(tmp_path: Path) -> None:
    clock = FakeClock()
    with serving(tmp_path, wall=clock) as server:
        with member(server, "alice") as alice:
            device = alice.device
        while wrong_try(server, "alice").code is ErrorCode.WRONG:
            pass
        with greeted(server) as owner, pytest.raises(Refused, match="slow_down"):
            owner.log_in("alice")
        with greeted(server) as owner:
            assert owner.log_in("alice", device=device).device == device
        clock.advance(LONGEST_WAIT)  # nor for long without one
        with greeted(server) as owner:
            owner.log_in("alice")


def test_a_device_token_is_spent_by_failures_and_is_its_accounts_only(tmp_path: Path) -> None:
    with serving(tmp_path, wall=FakeClock()) as server:
        with member(server, "bob"), member(server, "alice") as alice:
            device = alice.device
        while wrong_try(server, "alice").code is ErrorCode.WRONG:
            pass
        while wrong_try(server, "bob").code is ErrorCode.WRONG:
            pass
        assert wrong_try(server, "bob", device).code is ErrorCode.SLOW_DOWN
        assert [wrong_try(server, "alice", device).code for _ in range(DEVICE_TRIES)] == [
            ErrorCode.WRONG
        ] * DEVICE_TRIES
        assert wrong_try(server, "alice", device).code is ErrorCode.SLOW_DOWN


def test_tries_are_remembered_over_a_restart(tmp_path: Path) -> None:
    clock = FakeClock()
    with serving(tmp_path, wall=clock) as server:
        while wrong_try(server, "alice").code is ErrorCode.WRONG:
            pass
    with serving(tmp_path, wall=clock) as server:
        assert wrong_try(server, "alice").code is ErrorCode.SLOW_DOWN


# ---- whose session it is ----


def test_only_the_owner_ends_a_session(server: AuthServer) -> None:
    with member(server, "alice") as alice, member(server, "mallory") as mallory:
        answers = []
        for session in (alice.session, "0" * 16, "x"):
            with pytest.raises(Refused) as caught:
                mallory.ask(login.LogOut(session), login.Ok)
            answers.append((caught.value.code, caught.value.wait))
        assert set(answers) == {(ErrorCode.NO_SUCH_SESSION, 0)}
        assert [each.id for each in mallory.ask(login.Sessions(), login.SessionList).sessions] == [mallory.session]
        assert alice.ask(login.WhoAmI(), login.You).name == "alice"
        assert alice.pushes == []


def test_nobody_reads_or_deletes_anothers_mail(server: AuthServer) -> None:
    with member(server, "alice") as alice, member(server, "mallory") as mallory:
        number = mallory.ask(login.Send("alice", "hi"), login.Sent).id
        mallory.ask(login.Read((number,)), login.Ok)
        assert mallory.inbox() == []
        alice.push()
        assert alice.inbox() == ["hi"]


def test_a_session_that_was_ended_can_do_nothing_more(server: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even before it is told: every request looks at the database first."""
    with member(server, "alice") as here, greeted(server) as there:
        there.log_in("alice")
        monkeypatch.setattr(AuthServer, "_tell_news", lambda self: None)
        here.ask(login.LogOut(there.session), login.Ok)
        there.send(login.Send("alice", "still here"))
        assert there.receive() == login.Ended(login.EndedReason.LOGOUT)
        assert here.inbox() == []


def test_a_proof_for_a_password_that_was_changed_meanwhile_is_worth_nothing(server: AuthServer) -> None:
    with member(server, "alice") as alice, greeted(server) as thief:
        client = thief.scram("alice")
        final = client.final(thief.ask(login.Scram(client.first()), login.Challenge).data)
        alice.rekey("another password")
        with pytest.raises(Refused, match="wrong"):
            thief.ask(login.Proof(final), login.Done)


# ---- who only wants to do harm ----


def test_a_flood_of_silent_connections_does_not_keep_users_out(
    server: AuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "MAX_HANDSHAKES", 8)
    flood = []
    try:
        for _ in range(100):
            flood.append(socket.create_connection((server.address.host, server.address.port)))
        with member(server, "alice") as alice:
            alice.ask(login.WhoAmI(), login.You)
    finally:
        for sock in flood:
            sock.close()


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.0\r\n\r\n", b"\0" * 5_000, b"\x16\x03\x01" + b"\xff" * 500, b"SSH-2.0\r\n"]
)
def test_garbage_at_the_port_is_closed(server: AuthServer, said: bytes) -> None:
    with socket.create_connection((server.address.host, server.address.port), PATIENCE) as stranger:
        stranger.sendall(said)
        heard = b""
        try:
            while data := stranger.recv(65_536):
                heard += data
        except ConnectionError:
            pass
    assert (b"a login server's port" in heard) == said.startswith(b"GET")
    signed_up(server, "alice")


def test_a_peer_that_reads_nothing_holds_up_nobody(server: AuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.roles.auth_server.connection.SEND_TIME", 0.5)
    monkeypatch.setattr("common.roles.auth_server.connection.BURST", 1e9)
    with member(server, "alice") as alice, greeted(server) as deaf:
        deaf.log_in("alice")
        for _ in range(20):
            alice.ask(login.Send("alice", "\x01" * 4_000), login.Sent)
        deaf.sock.setblocking(False)
        try:
            while True:
                deaf.send(*[login.Inbox()] * 50)
        except OSError:
            pass  # both directions are full, or the server has closed
        alice.ask(login.WhoAmI(), login.You)
        while len(alice.ask(login.Sessions(), login.SessionList).sessions) > 1:
            pass
