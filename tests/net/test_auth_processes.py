"""Login servers as processes: killed at any moment, stopped, and two of them on one file."""

import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from common.directory.addresses import Address
from common.wire import login
from common.wire.login import EndedReason, ErrorCode
from tests.net.auth_process import ROOT, AuthProcess, auth_process
from tests.net.login_peer import PASSWORD, Ended, LoginPeer, Refused, greeted, member, new_verifier, parts

KILLS = 8
SIGNERS = 4  # threads that sign users up meanwhile


class Signers:
    """Threads that sign up users until the server is gone; `confirmed` are those it said ok to."""

    def __init__(self, server: AuthProcess, life: int) -> None:
        self.confirmed: list[str] = []
        self.asked: list[str] = []
        self.under_way = threading.Event()
        self._verifier = parts(new_verifier())
        self._threads = [
            threading.Thread(target=self._run, args=(server, f"life{life}-{number}")) for number in range(SIGNERS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, server: AuthProcess, prefix: str) -> None:
        try:
            for number in range(1_000_000):
                with greeted(server.address) as peer:
                    for each in range(4):
                        name = f"{prefix}-{number}-{each}"
                        self.asked.append(name)
                        peer.ask(login.SignUp(name, *self._verifier), login.Ok)
                        self.confirmed.append(name)
                        self.under_way.set()
        except (Ended, OSError):
            return

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_a_confirmed_sign_up_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    moments = random.Random(1)
    confirmed: list[str] = []
    asked: list[str] = []
    with auth_process(tmp_path / "server") as server:
        for life in range(KILLS):
            signers = Signers(server, life)
            assert signers.under_way.wait(30)
            time.sleep(moments.uniform(0, 0.1))  # the moment of the kill, not a synchronisation
            server.kill()
            signers.join()
            confirmed += signers.confirmed
            asked += signers.asked
            server.start()
        with closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            stored = {name for (name,) in db.execute("SELECT name FROM users")}
        assert set(confirmed) <= stored <= set(asked)
        assert len(confirmed) >= KILLS
        for name in moments.sample(confirmed, min(50, len(confirmed))):
            with greeted(server.address) as peer:
                peer.log_in(name)


def test_mail_that_was_confirmed_survives_a_kill(tmp_path: Path) -> None:
    with auth_process(tmp_path / "server") as server:
        with member(server.address, "alice") as alice:
            for number in range(5):
                alice.ask(login.Send("alice", str(number)), login.Sent)
            server.kill()
        server.start()
        with greeted(server.address) as again:
            assert again.log_in("alice").unread == 5
            assert again.inbox() == ["0", "1", "2", "3", "4"]


def test_sigterm_tells_members_and_ends_with_0(tmp_path: Path) -> None:
    with auth_process(tmp_path / "server") as server:
        with member(server.address, "alice") as alice:
            assert server.stop() == 0
            assert alice.push() == login.Ended(EndedReason.SHUTTING_DOWN)
            assert alice.is_over()
        assert not (server.folder / "ready").exists()
        with closing(sqlite3.connect(server.database)) as db:
            assert db.execute("SELECT count(*) FROM sessions").fetchone() == (0,)


def test_two_servers_on_one_file_share_users_mail_sessions_and_tries(tmp_path: Path) -> None:
    with auth_process(tmp_path / "one") as one, auth_process(tmp_path / "two", one.database) as two:
        with (
            member(one.address, "alice") as alice,
            greeted(two.address) as elsewhere,
            member(two.address, "bob") as bob,
        ):
            elsewhere.log_in("alice")
            listed = {each.id for each in alice.ask(login.Sessions(), login.SessionList).sessions}
            assert listed == {alice.session, elsewhere.session}
            bob.ask(login.Send("alice", "across"), login.Sent)
            assert alice.push() == elsewhere.push() == login.NewMail(1, "bob")
            alice.ask(login.LogOut(elsewhere.session), login.Ok)
            assert elsewhere.push() == login.Ended(EndedReason.LOGOUT)
            with greeted(two.address) as third:
                third.log_in("alice")
                third.rekey("another password")
                assert alice.push() == login.Ended(EndedReason.PASSWORD_CHANGED)
        codes = [_wrong(address, "alice") for address in (one.address, two.address) * 3]
        assert codes == [ErrorCode.WRONG] * 5 + [ErrorCode.SLOW_DOWN]


def _wrong(address: Address, name: str) -> ErrorCode:
    with greeted(address) as peer:
        with pytest.raises(Refused) as caught:
            peer.log_in(name, "a wrong password")
    return caught.value.code


def test_two_servers_start_on_a_new_file_at_once_and_take_users_at_once(tmp_path: Path) -> None:
    servers = [AuthProcess(tmp_path / name, tmp_path / "users.sqlite") for name in ("one", "two")]
    try:
        starting = []
        for server in servers:
            server.folder.mkdir()
            starting.append(threading.Thread(target=server.start))
            starting[-1].start()
        for thread in starting:
            thread.join()
        failures: list[Exception] = []

        def sign_up(server: AuthProcess, prefix: str) -> None:
            try:
                for number in range(10):
                    with member(server.address, f"{prefix}{number}") as peer:
                        peer.ask(login.WhoAmI(), login.You)
            except Exception as error:
                failures.append(error)

        signing = [
            threading.Thread(target=sign_up, args=(server, f"s{at}-{each}-"))
            for at, server in enumerate(servers)
            for each in range(3)
        ]
        for thread in signing:
            thread.start()
        for thread in signing:
            thread.join()
        assert failures == []
        with greeted(servers[0].address) as peer:
            peer.log_in("s1-2-9")
        names = [f"both{number}" for number in range(10)]
        taken: list[str] = []

        def race(server: AuthProcess) -> None:
            for name in names:
                with LoginPeer(server.address) as peer:
                    peer.hello()
                    try:
                        peer.sign_up(name)
                        taken.append(name)
                    except Refused as error:
                        assert error.code is ErrorCode.NAME_TAKEN

        racing = [threading.Thread(target=race, args=(server,)) for server in servers]
        for thread in racing:
            thread.start()
        for thread in racing:
            thread.join()
        assert sorted(taken) == names
    finally:
        for server in servers:
            server.kill()


@pytest.mark.system
def test_the_script_serves_says_where_and_ends(tmp_path: Path) -> None:
    """With real iterations: the script has no option for fewer."""
    state = tmp_path / "state"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOR_NETWORK_")}
    command = [sys.executable, "auth_server.py", "--listen", "127.0.0.1:0", "--state", str(state)]
    with (tmp_path / "log").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    server = AuthProcess(state, state / "users.sqlite")
    server.process = process
    try:
        server.wait_until_ready()
        with LoginPeer(server.address, iterations=600_000) as peer:
            assert peer.hello().iterations == 600_000
            peer.sign_up("alice")
            peer.log_in("alice")
            assert peer.ask(login.WhoAmI(), login.You).name == "alice"
            assert server.stop() == 0
            assert peer.push() == login.Ended(EndedReason.SHUTTING_DOWN)
        said = (tmp_path / "log").read_text()
        assert "alice" not in said and PASSWORD not in said
        assert len(said.splitlines()) == 1
    finally:
        server.kill()
