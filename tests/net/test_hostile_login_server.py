"""A login server that lies: the client says no more than it must, believes nothing, and tells its user a sentence."""

import base64
import os
import signal
import socket
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from common.crypto.scram import ClientFirst, ScramServer, Verifier, make_verifier
from common.errors import Closed, OnionError
from common.ops.login_words import LoginCommand
from common.roles.auth_client import connection as login_connection
from common.roles.auth_client.auth_client import AuthClient, Unusable
from common.roles.auth_client.errors import FakeServer, LoginEnded, LoginRefused, ServerLost
from common.roles.auth_client.pins import KeyChanged, Pins
from common.roles.prompt.login_prompt import LoginPrompt
from common.roles.prompt.login_screen import LoginScreen, direct
from common.roles.prompt.passwords import TypedPasswords
from common.wire.login import (
    Challenge,
    Done,
    Ended,
    EndedReason,
    Error,
    ErrorCode,
    Hello,
    Inbox,
    LogOut,
    Mail,
    MailList,
    Message,
    NewMail,
    Ok,
    Pong,
    Proof,
    Read,
    Rekey,
    Scram,
    SignUp,
    Welcome,
    WhoAmI,
    You,
)
from tests.net.hostile_login import WELCOME, HostileServer, Peer, serving
from tests.system.targets import PATIENCE, Target

NAME, PASSWORD = "alice", "zebra zebra zebra"
SALT = b"s" * 16


def challenge(peer: Peer, iterations: int = 600_000, salt: bytes = SALT) -> ClientFirst:
    """Answers the client's first message with a challenge."""
    scram = peer.receive()
    assert isinstance(scram, Scram)
    first = ClientFirst.parse(scram.data)
    text = f"r={first.nonce}{'x' * 32},s={base64.b64encode(salt).decode()},i={iterations}"
    peer.say(Challenge(text.encode()))
    return first


def done(data: bytes, iterations: int = 600_000) -> Done:
    return Done(data, "1" * 16, b"device", 3, iterations)


def log_in(hostile: HostileServer, folder: Path, pushed: Callable[[object], None] = lambda _push: None) -> None:
    with AuthClient(direct, hostile.server._replace(key=None), Pins(folder), pushed=pushed) as auth:
        auth.log_in(NAME, PASSWORD)


def honest_login(peer: Peer) -> Done:
    """What a server that knows the account does: the client believes it from then on."""
    peer.greet()
    scram = peer.receive()
    assert isinstance(scram, Scram)
    server = ScramServer(ClientFirst.parse(scram.data), _VERIFIER, peer.binding)
    peer.say(Challenge(server.challenge()))
    proof = peer.receive()
    assert isinstance(proof, Proof)
    return done(server.finish(proof.data))


_VERIFIER: Verifier = make_verifier(PASSWORD, SALT, 600_000)


# ---- a server that proves nothing


@pytest.mark.parametrize(
    "final",
    [b"v=" + base64.b64encode(b"x" * 32), b"v=", b"e=other-error", b"\xff"],
)
def test_a_fake_server_that_accepts_anything_is_detected_and_nothing_more_is_said(tmp_path: Path, final: bytes) -> None:
    def accept_anything(peer: Peer) -> None:
        peer.greet()
        challenge(peer)
        peer.receive()
        peer.say(done(final, 9_000_000), NewMail(1, "bob"))

    heard: list[object] = []
    with serving(tmp_path, accept_anything) as hostile:
        with pytest.raises(FakeServer, match="does not prove that it knows alice"):
            log_in(hostile, tmp_path / "client", heard.append)
    assert [type(message) for message in hostile.heard()] == [Hello, Scram, Proof]
    assert heard == []
    pins = Pins(tmp_path / "client")
    assert pins.key(hostile.server.address) is None, "such a key is not remembered"
    assert pins.device(hostile.server.key or b"", NAME) == b""


@pytest.mark.parametrize(
    "answer",
    [
        lambda peer: peer.say(done(b"v=" + b"A" * 44)),
        lambda peer: peer.say(Ok()),
        lambda peer: peer.say(NewMail(1, "bob")),
        lambda peer: peer.say(Ended(EndedReason.DELETED)),
        lambda peer: peer.say(Hello(1)),
        lambda peer: peer.say(b"{}"),
        lambda peer: peer.say(Challenge(b"r=nonsense,s=c3Nzc3Nzc3Nzc3Nzc3Nzcw==,i=600000")),
        lambda peer: peer.say(Challenge(b"e=no")),
        lambda peer: challenge(peer, 599_999),
        lambda peer: challenge(peer, 10_000_001),
        lambda peer: challenge(peer, salt=b"short"),
    ],
)
def test_no_proof_is_given_for_anything_but_a_sound_challenge(tmp_path: Path, answer: Callable[[Peer], None]) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        if answer.__code__.co_names[0] == "challenge":
            answer(peer)
        else:
            peer.receive()
            answer(peer)

    with serving(tmp_path, script) as hostile:
        with pytest.raises(ServerLost):
            log_in(hostile, tmp_path / "client")
    assert [type(message) for message in hostile.heard()] == [Hello, Scram]


def test_a_server_that_wants_too_much_work_is_left(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.greet(Welcome(1, 2**31 - 1, 4_096, 1_000))

    with serving(tmp_path, script) as hostile:
        with AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
            with pytest.raises(ServerLost, match="10,000,000 is the most"):
                auth.sign_up(NAME, PASSWORD)
    assert [type(message) for message in hostile.heard()] == [Hello]


def test_fewer_iterations_than_are_safe_are_never_used(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.greet(Welcome(1, 1, 4_096, 1_000))
        peer.receive()
        peer.say(Ok())

    with serving(tmp_path, script) as hostile:
        with AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
            auth.sign_up(NAME, PASSWORD)
    signup = hostile.heard()[1]
    assert isinstance(signup, SignUp)
    assert signup.iterations == 600_000
    known = make_verifier(PASSWORD, signup.salt, 600_000)
    assert (signup.stored_key, signup.server_key) == (known.stored_key, known.server_key)


# ---- a server with another key


def test_a_changed_key_is_refused_before_anything_is_said(tmp_path: Path) -> None:
    with serving(tmp_path, Peer.greet) as hostile:
        pinned = hostile.server._replace(key=b"k" * 32)
        with pytest.raises(KeyChanged, match="somebody may stand in between") as caught:
            AuthClient(direct, pinned, Pins(tmp_path / "client"))
    assert caught.value.shown == hostile.server.key
    assert (b"k" * 32).hex() in str(caught.value)
    assert [message for peer in hostile.peers for message in peer.heard] == []


def test_a_remembered_key_is_compared_and_another_one_is_accepted_only_by_name(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))

    pins = Pins(tmp_path / "client")
    told: list[str] = []
    with serving(tmp_path, script) as hostile:
        unpinned = hostile.server._replace(key=None)
        pins.remember(hostile.server._replace(key=b"k" * 32))
        with pytest.raises(KeyChanged):
            AuthClient(direct, unpinned, pins)
        with pytest.raises(KeyChanged):
            AuthClient(direct, unpinned, pins, accept=b"x" * 32)
        assert pins.key(hostile.server.address) == b"k" * 32
        with AuthClient(direct, unpinned, pins, accept=hostile.server.key, tell=told.append) as auth:
            auth.log_in(NAME, PASSWORD)
        assert pins.key(hostile.server.address) == hostile.server.key
        with AuthClient(direct, unpinned, pins, tell=told.append) as auth:
            auth.log_in(NAME, PASSWORD)
    assert told == []


def test_at_first_use_the_key_is_shown_and_remembered_once_the_login_worked(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))

    pins, told = Pins(tmp_path / "client"), list[str]()
    with serving(tmp_path, script) as hostile:
        with AuthClient(direct, hostile.server._replace(key=None), pins, tell=told.append) as auth:
            assert pins.key(hostile.server.address) is None
            auth.log_in(NAME, PASSWORD)
            assert (auth.name, auth.unread) == (NAME, 3)
        assert pins.key(hostile.server.address) == hostile.server.key
        assert pins.device(hostile.server.key or b"", "ALICE".casefold()) == b"device"
        with AuthClient(direct, hostile.server._replace(key=None), pins) as auth:
            auth.log_in("Alice", PASSWORD)
    assert len(told) == 1
    assert (hostile.server.key or b"").hex() in told[0]
    second = hostile.heard()[1]
    assert isinstance(second, Scram)
    assert second.device == b"device"


# ---- what is no login server at all


def _plain(sock: socket.socket, _ending: threading.Event) -> None:
    sock.recv(4_096)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _mute(sock: socket.socket, ending: threading.Event) -> None:
    ending.wait(PATIENCE)


def _gone(_sock: socket.socket, _ending: threading.Event) -> None:
    pass


@pytest.mark.parametrize("serve", [_plain, _mute, _gone])
def test_what_is_no_login_server_is_a_sentence(
    tmp_path: Path, serve: Callable[[socket.socket, threading.Event], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_connection, "OPEN_TIME", 0.5 if serve is _mute else PATIENCE)
    with Target(serve) as target:
        hostile = HostileServer(target, b"k" * 32)
        with pytest.raises(ServerLost, match="no login server"):
            AuthClient(direct, hostile.server, Pins(tmp_path))


def test_nobody_at_the_address_is_a_sentence(tmp_path: Path) -> None:
    with Target(_gone) as target:
        hostile = HostileServer(target, b"k" * 32)
    with pytest.raises((ServerLost, Closed), match="cannot be reached: cannot connect: connection refused"):
        AuthClient(direct, hostile.server, Pins(tmp_path))


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([Error(ErrorCode.BUSY)], "try again in a minute"),
        ([Error(ErrorCode.VERSION)], "another version"),
        ([Welcome(2, 600_000, 1, 1)], "another version"),
        ([Pong()], "does not answer what it was asked"),
        ([WELCOME, WELCOME], "says what it may not"),
        ([b"\xff" * 70_000], "says what it may not"),
    ],
)
def test_a_wrong_greeting_is_a_sentence(tmp_path: Path, messages: list[Message | bytes], sentence: str) -> None:
    def script(peer: Peer) -> None:
        peer.receive()
        peer.say(*messages)

    with serving(tmp_path, script) as hostile, pytest.raises(OnionError, match=sentence):
        with AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
            auth.log_in(NAME, PASSWORD)
    assert not [message for message in hostile.heard() if isinstance(message, Proof)]


# ---- refusals as sentences


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Error(ErrorCode.SLOW_DOWN, 8), "too many tries: wait 8 seconds and try again"),
        (Error(ErrorCode.SLOW_DOWN, 1), "too many tries: wait 1 second and try again"),
        (Error(ErrorCode.WRONG), "wrong name or password"),
    ],
)
def test_a_refusal_is_a_sentence(tmp_path: Path, error: Error, sentence: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        challenge(peer)
        peer.receive()
        peer.say(error)

    with serving(tmp_path, script) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
        with pytest.raises(LoginRefused) as caught:
            auth.log_in(NAME, PASSWORD)
    assert str(caught.value) == sentence


def test_wrong_by_an_unknown_key_tells_that_somebody_may_be_in_between(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        challenge(peer)
        peer.receive()
        peer.say(Error(ErrorCode.WRONG))

    with serving(tmp_path, script) as hostile:
        with pytest.raises(LoginRefused, match="somebody may stand between you") as caught:
            log_in(hostile, tmp_path / "client")
    assert (hostile.server.key or b"").hex() in str(caught.value)
    assert Pins(tmp_path / "client").key(hostile.server.address) is None


def test_every_code_and_every_end_has_its_sentence() -> None:
    texts = [str(LoginRefused(code, 2)) for code in ErrorCode] + [str(LoginEnded(reason)) for reason in EndedReason]
    assert len(set(texts)) == len(ErrorCode) + len(EndedReason)
    assert [text for text in texts if "wait 2 seconds" in text] == [str(LoginRefused(ErrorCode.SLOW_DOWN, 2))]


@pytest.mark.parametrize("name", ["", "\0", "a" * 65, "a" * 2_000, "a\nb", "al ice", "\u0430lice", "alice.", "[/red]"])
def test_names_that_nobody_can_have_are_not_sent(tmp_path: Path, name: str) -> None:
    with serving(tmp_path, Peer.greet) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
        for use in (auth.log_in, auth.sign_up):
            with pytest.raises(Unusable, match="this name cannot be used"):
                use(name, PASSWORD)
    assert [type(message) for message in hostile.heard()] == [Hello]


@pytest.mark.parametrize("password", ["", "x" * 10_000, "zebra\0zebra", "zebra\udcff", "\u202ezebra"])
def test_passwords_that_cannot_be_used_are_a_sentence_without_them(tmp_path: Path, password: str) -> None:
    with serving(tmp_path, Peer.greet) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
        for use in (auth.log_in, auth.sign_up):
            with pytest.raises(Unusable, match="this password cannot be used") as caught:
                use(NAME, password)
            assert "zebra" not in str(caught.value)
    assert [type(message) for message in hostile.heard()] == [Hello]


# ---- once logged in


def test_iterations_that_rose_are_followed_with_the_same_password(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        answer = honest_login(peer)
        peer.say(Done(answer.data, answer.session, answer.device, 0, 600_001))
        peer.receive()
        peer.say(Ok())

    with serving(tmp_path, script) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
        auth.log_in(NAME, PASSWORD)
    rekey = hostile.heard()[-1]
    assert isinstance(rekey, Rekey)
    assert rekey.keep
    assert rekey.salt != SALT
    known = make_verifier(PASSWORD, rekey.salt, 600_001)
    assert (rekey.iterations, rekey.stored_key, rekey.server_key) == (600_001, known.stored_key, known.server_key)


def test_what_comes_from_others_does_not_drive_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\x1b[2Jhello\r\x9b31m[bold]"

    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))
        peer.receive()
        peer.say(MailList((Mail(7, "b\x1bob\npassword of alice: ", 2**40, evil),), False))
        peer.receive()
        peer.say(Ok())
        peer.receive()
        peer.say(You("al\x1bice\nalice> ", 0, "0" * 16))

    shown = StringIO()
    with serving(tmp_path, script) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
        auth.log_in(NAME, PASSWORD)
        login_prompt = LoginPrompt(auth, TypedPasswords(print), Console(file=shown, force_terminal=True))
        login_prompt.say("inbox")
        login_prompt.say("whoami")
    assert isinstance(hostile.heard()[-2], Read)
    assert isinstance(hostile.heard()[-1], WhoAmI)
    text = shown.getvalue()
    assert "hello" in text
    assert "[bold]" in text
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(text)
    assert not [line for line in text.splitlines() if line.startswith(("password", "alice>"))], "a name is one line"


def test_a_page_that_does_not_go_on_ends_the_inbox(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))
        for _ in range(2):
            assert isinstance(peer.receive(), Inbox)
            peer.say(MailList((Mail(7, "bob", 0, "again and again"),), True))

    with serving(tmp_path, script) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
        auth.log_in(NAME, PASSWORD)
        assert len(list(auth.mail())) == 2


def test_a_mailbox_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.roles.auth_client.auth_client.MOST_MAIL", 3)

    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))
        while isinstance(inbox := peer.receive(), Inbox):
            peer.say(MailList((Mail(inbox.after + 1, "bob", 0, "and on"),), True))

    with serving(tmp_path, script) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
        auth.log_in(NAME, PASSWORD)
        with pytest.raises(ServerLost, match="no end of mail"):
            list(auth.mail())


def test_a_session_that_ends_as_soon_as_it_has_begun_is_no_fault_of_the_server(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.say(honest_login(peer), Ended(EndedReason.SHUTTING_DOWN))

    with serving(tmp_path, script) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
        with pytest.raises(OnionError, match=r"ended the session as soon as it had begun|shuts down"):
            auth.log_in(NAME, PASSWORD)
            auth.who_am_i()


def test_the_end_of_a_session_is_heard_and_is_what_the_next_request_says(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))
        peer.receive()
        peer.say(NewMail(2, "bob"), Ended(EndedReason.PASSWORD_CHANGED))

    heard: list[object] = []
    ended = threading.Event()

    def pushed(push: object) -> None:
        heard.append(push)
        if isinstance(push, LoginEnded):
            ended.set()

    with serving(tmp_path, script) as hostile:
        with AuthClient(direct, hostile.server, Pins(tmp_path), pushed=pushed) as auth:
            auth.log_in(NAME, PASSWORD)
            with pytest.raises(LoginEnded, match="the password was changed"):
                auth.who_am_i()
            assert ended.wait(PATIENCE)
            with pytest.raises(LoginEnded):
                auth.log_out()
    assert not [message for message in hostile.heard() if isinstance(message, LogOut)]


def test_a_server_that_falls_silent_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_connection, "PING_EVERY", 0.2)

    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))

    lost = threading.Event()
    with serving(tmp_path, script) as hostile:
        with AuthClient(direct, hostile.server, Pins(tmp_path), pushed=lambda _push: lost.set()) as auth:
            auth.log_in(NAME, PASSWORD)
            assert lost.wait(PATIENCE)
            with pytest.raises(ServerLost, match="does not answer any more"):
                auth.who_am_i()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_a_reader_whose_notices_cannot_be_shown(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))
        peer.receive()
        peer.say(NewMail(1, "bob"))

    def gone(_push: object) -> None:
        raise BrokenPipeError

    with serving(tmp_path, script) as hostile:
        with AuthClient(direct, hostile.server, Pins(tmp_path), pushed=gone) as auth:
            auth.log_in(NAME, PASSWORD)
            with pytest.raises(ServerLost, match="could not be told"):
                auth.who_am_i()


def test_a_flood_of_notices_is_one_notice(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))
        peer.receive()
        peer.say(*(NewMail(number, "bob") for number in range(1, 501)), You(NAME, 0, "0" * 16))

    lines = iter(["whoami", "quit"])
    told = StringIO()
    reading, writing = os.pipe()
    os.write(writing, PASSWORD.encode() + b"\n")
    os.close(writing)
    with serving(tmp_path, script) as hostile, open(reading, "rb"):
        screen = LoginScreen(direct, hostile.server, tmp_path / "client", Console(file=StringIO()), Console(file=told))
        screen.run(LoginCommand("login", NAME, reading), lambda _question: next(lines))
    assert [line for line in told.getvalue().splitlines() if "new mail" in line] == [
        "new mail from bob, 500 in all: inbox shows it"
    ]


def test_mail_that_is_announced_before_an_answer_is_told_before_it(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))
        peer.receive()
        peer.say(NewMail(1, "bob"), You(NAME, 0, "0" * 16))

    told, answered = threading.Event(), threading.Event()

    def pushed(_: NewMail | OnionError) -> None:
        answered.wait(0.3)  # it is not, while this is told
        told.set()

    with (
        serving(tmp_path, script) as hostile,
        AuthClient(direct, hostile.server, Pins(tmp_path), pushed=pushed) as auth,
    ):
        auth.log_in(NAME, PASSWORD)
        auth.who_am_i()
        answered.set()
        assert told.is_set()


def test_ctrl_c_before_the_challenge_leaves_no_half_login_behind(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))
        assert isinstance(peer.receive(), Scram)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with serving(tmp_path, script) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
            auth.log_in(NAME, PASSWORD)
            with pytest.raises(KeyboardInterrupt):
                auth.delete(PASSWORD)
            with pytest.raises(ServerLost, match=r"is closed|was given up"):  # as the reader or we saw it first
                auth.who_am_i()
        assert [type(message) for message in hostile.heard()] == [Hello, Scram, Proof, Scram]
    finally:
        signal.signal(signal.SIGINT, before)


def test_keep_alives_are_answered_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_connection, "PING_EVERY", 0.05)
    pings = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.say(honest_login(peer))
        while True:
            message = peer.receive()
            if isinstance(message, WhoAmI):
                peer.say(You(NAME, 0, "0" * 16))
            else:
                peer.say(Pong())
                pings.release()

    with serving(tmp_path, script) as hostile, AuthClient(direct, hostile.server, Pins(tmp_path)) as auth:
        auth.log_in(NAME, PASSWORD)
        for _ in range(3):
            assert pings.acquire(timeout=PATIENCE)
            assert auth.who_am_i().name == NAME
