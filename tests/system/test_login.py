"""A login through a real network: 1 to 8 hops, a lying exit, a server that dies, and no password anywhere."""

import base64
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any

import pytest

from tests.system.launched import Launched
from tests.system.network import PATIENCE, ROOT, Network, Process, environment, run_script, wait_until

pytestmark = pytest.mark.system
PASSWORD, OTHER = "zebra-in-the-attic", "quokka-on-the-roof"

Done = subprocess.CompletedProcess[str]


# ---- with what the launcher starts


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    with Launched(tmp_path_factory.mktemp("launched") / "state", 8) as launched:
        yield launched


@pytest.mark.parametrize("hops", [1, 3, 8])
def test_two_users_sign_up_talk_and_leave_through_the_network(launched: Launched, hops: int) -> None:
    alice, bob = f"alice{hops}", f"bob{hops}"

    def say(user: str, *commands: str, passwords: tuple[str, ...] = (PASSWORD,), action: str = "login") -> Done:
        words = [word for command in commands for word in ("--command", command)]
        return launched.run(
            "client", "--hops", str(hops), "server", action, user, "--password-fd", "0", *words,
            text="".join(f"{password}\n" for password in passwords),
        )  # fmt: skip

    for user in (alice, bob):
        done = say(user, action="signup")
        assert (done.returncode, done.stdout) == (0, f"{user} is signed up\n"), done.stderr
        assert f"relay {hops} of {hops} answered" in done.stderr
    assert say(alice, action="signup").returncode == 1, "the name is taken"
    done = say(alice, "whoami", f"send {bob} hello through {hops}", "sessions", "logout")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{alice}, here since 20")
    assert lines[1] == f"sent to {bob}"
    assert lines[2].endswith("(here)")
    assert lines[3] == "logged out"
    done = say(bob, "inbox", "inbox", f"send {alice} back", "passwd", passwords=(PASSWORD, OTHER))
    assert done.returncode == 0, done.stderr
    assert f"    hello through {hops}\nno mail\n" in done.stdout
    assert "the password is changed" in done.stdout
    refused = say(bob, "whoami")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "wrong name or password" in refused.stderr
    assert "    back\n" in say(alice, "inbox").stdout
    assert say(bob, "delete", passwords=(OTHER,)).returncode == 0
    assert say(bob, "whoami", passwords=(OTHER,)).returncode == 1
    done = say(alice, f"send {bob} are you there")
    assert (done.returncode, f"there is no such user {bob}" in done.stderr) == (1, True)


def test_the_login_client_takes_the_networks_file(launched: Launched, tmp_path: Path) -> None:
    known = ["--network", launched.state / "network.toml", "--state", tmp_path, "--password-fd", "0"]
    for way in ([], ["--direct"]):
        name = f"carol{len(way)}"
        made = run_script("auth_client.py", *known, *way, "signup", name, text=PASSWORD)
        assert made.returncode == 0, made.stderr
        you = run_script("auth_client.py", *known, *way, "login", name, "--command", "whoami", "--json", text=PASSWORD)
        assert you.returncode == 0, you.stderr
        assert json.loads(you.stdout)["name"] == name
        assert ("% " in you.stderr) == (not way), "only the network has something to start"
    assert not (tmp_path / "known_servers").exists(), "a key that is configured needs no remembering"


def test_the_login_server_is_shown_logged_killed_and_started_again(launched: Launched) -> None:
    assert re.search(r"^ auth +127\.0\.0\.1:\d+ +\d+ +running", launched.run("status").stdout, re.MULTILINE)
    assert "listening on" in launched.run("logs", "auth").stdout
    made = launched.run("client", "--hops", "1", "server", "signup", "erin", "--password-fd", "0", text=PASSWORD)
    assert made.returncode == 0, made.stderr
    words = ("client", "--hops", "1", "server", "login", "erin", "--password-fd", "0", "--command", "whoami")
    before = launched.run(*words, text=PASSWORD)
    assert before.returncode == 0, before.stderr
    launched.tell("kill", "auth")
    gone = launched.run(*words, text=PASSWORD)
    assert gone.returncode == 1
    assert "refuses connections: is the server running" in gone.stderr
    launched.tell("restart", "auth")
    again = launched.run(*words, text=PASSWORD)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split(";")[0] == before.stdout.split(";")[0], "the account is there as it was"


# ---- with a relay that lies


class Lied:
    """A network whose relay `liar` stands in the middle of logins, and an account that was made honestly."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder = folder
        self.network = network
        self.server = network.login_server("--log-level", "debug")
        self.seen = folder / "seen-by-the-liar"
        network.lying_exit("liar", int(self.server.address.rpartition(":")[2]), self.seen)
        self.key = self.server.identity.hex()

    def restart(self) -> None:
        """The login server, which has ended, on the same port."""
        self.server = self.network.login_server_again(self.server, "--log-level", "debug")

    def heard(self) -> bytes:
        """What the liar has heard so far."""
        return self.seen.read_bytes() if self.seen.exists() else b""

    def options(self, state: str, *options: str, pin: bool = True) -> list[str]:
        login = self.server.address + f"={self.key}" * pin
        known = [*self.network.gateway_options, "--log-level", "debug", "--state", str(self.folder / state)]
        return ["client_tor.py", *known, "--hops", "3", "--login", login, *options]

    def say(self, state: str, exit_: str, *words: str, pin: bool = True, text: str = PASSWORD) -> Done:
        done = run_script(*self.options(state, "--exit", exit_, pin=pin), "server", *words, "--password-fd", "0", text=text)
        with (self.folder / f"client-{state}.log").open("a") as log:
            log.write(done.stdout + done.stderr)
        return done


@pytest.fixture(scope="module")
def lied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lied]:
    folder = tmp_path_factory.mktemp("network")
    with Network(folder, relays=3) as network:
        lied = Lied(folder, network)
        made = lied.say("honest", "r0", "signup", "alice", pin=False)
        assert made.returncode == 0, made.stderr
        assert f"its key is {lied.key}" in made.stderr
        yield lied


WHO = ("login", "alice", "--command", "whoami")


def test_a_lying_exit_that_relays_under_its_own_certificate_fails_by_channel_binding(lied: Lied) -> None:
    """At first use there is no pin, and the middle hears the whole exchange; it wins nothing by it."""
    before = len(lied.heard())
    done = lied.say("newcomer", "liar", *WHO, pin=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "wrong name or password" in done.stderr
    assert "somebody may stand between you and the login server" in done.stderr
    heard = lied.heard()[before:]
    assert heard.count(b'"proof"') == 1, "it was in the middle"
    assert b'"wrong"' in heard
    assert b'"done"' not in heard
    assert PASSWORD.encode() not in heard
    assert not (lied.folder / "newcomer" / "known_servers").exists(), "its key is not remembered"
    honest = lied.say("newcomer", "r0", *WHO, pin=False)
    assert honest.returncode == 0, honest.stderr
    assert lied.key in (lied.folder / "newcomer" / "known_servers").read_text()


@pytest.mark.parametrize("pin", [True, False])
def test_a_lying_exit_fails_at_once_against_a_known_key(lied: Lied, pin: bool) -> None:
    """Configured, or remembered from the sign-up."""
    before = lied.heard()
    for words in (WHO, ("signup", "bob")):
        done = lied.say("honest", "liar", *words, pin=pin)
        assert (done.returncode, done.stdout) == (1, "")
        assert "shows another key than the believed one" in done.stderr
        assert f"believed {lied.key}" in done.stderr
        assert re.search(r"shown +[0-9a-f]{64}", done.stderr)
    assert lied.heard() == before, "nothing was said to it"


def test_a_server_that_is_killed_in_the_middle_of_a_conversation_is_a_sentence(lied: Lied) -> None:
    log = lied.folder / "client-talking.log"
    command = [sys.executable, *lied.options("honest", "--exit", "r0"), "server", "login", "alice", "--password-fd", "0"]
    with log.open("wb") as file:
        client = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=file, stderr=file
        )
    assert client.stdin is not None
    with client:
        client.stdin.write(f"{PASSWORD}\nwhoami\n".encode())
        client.stdin.flush()
        wait_until(lambda: b"alice, here since" in log.read_bytes() or client.poll() is not None)
        assert client.poll() is None, log.read_text()
        _check_process(client.pid)
        lied.server.kill()
        wait_until(lambda: b"the connection to the login server ended" in log.read_bytes())
        client.stdin.write(b"whoami\n")
        client.stdin.close()
        assert client.wait(PATIENCE) == 1, log.read_text()
    assert "Traceback" not in log.read_text()
    lied.restart()
    assert lied.say("honest", "r0", *WHO).returncode == 0


def _check_process(pid: int) -> None:
    for file in ("cmdline", "environ"):
        assert PASSWORD.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()


def test_no_password_and_nothing_made_of_it_is_in_any_file_or_log(lied: Lied) -> None:
    """After logins that worked and that failed, with all programs at the level debug."""
    assert lied.say("honest", "r0", "signup", "dora").returncode == 0
    assert lied.say("late", "liar", "login", "dora", pin=False).returncode == 1
    assert lied.say("late", "liar", "login", "dora", pin=False, text="platypus-wrong").returncode == 1
    changed = lied.say("honest", "r0", "login", "dora", "--command", "passwd", text=f"{PASSWORD}\n{OTHER}\n")
    assert changed.returncode == 0, changed.stderr
    proofs = re.findall(rb'"type":"proof","data":"([^"]+)"', lied.heard())
    assert len(proofs) >= 2
    secrets = [word.encode() for word in (PASSWORD, OTHER, "platypus-wrong")]
    secrets += [base64.b64decode(proof).rpartition(b",p=")[2] for proof in proofs]
    assert lied.server.stop() == 0
    stored = _stored(lied.server)
    salted = pbkdf2_hmac("sha256", OTHER.encode(), stored["salt"], stored["iterations"])
    everywhere = [*secrets, salted]
    not_at_the_client = [*everywhere, stored["stored_key"], stored["server_key"]]
    files = [path for path in lied.folder.rglob("*") if path.is_file() and path != lied.seen]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        kept_by_server = path.is_relative_to(lied.server.state)
        for secret in everywhere if kept_by_server else not_at_the_client:
            for form in (secret, base64.b64encode(secret).rstrip(b"="), secret.hex().encode(), repr(secret)[2:-1].encode()):
                assert form not in content, path
    lied.restart()


def _stored(server: Process) -> dict[str, Any]:
    with closing(sqlite3.connect(server.state / "users.sqlite")) as database:
        database.row_factory = sqlite3.Row
        (row,) = database.execute(
            "SELECT salt, iterations, stored_key, server_key FROM users WHERE name = 'dora'"
        ).fetchall()
    return dict(row)
