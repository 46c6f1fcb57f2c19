"""The yardstick: a private C tor network on loopback: five relays that are exits, three of them authorities; one client.

"fast" are the quickest settings known to us; all are stock options, but those in the consensus need control of
the authorities, which a user of the public network has not got. "default" is as shipped. Bandwidth limits are
raised in both, and the learnt circuit timeout is off: it gives circuits up that are built 16 at a time.
"""

import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep

from common.net.deadline import Deadline
from tests.benchmarks import work
from tests.benchmarks.builds import Builds, build_tors, close_circuits, relays_known
from tests.benchmarks.networks import START_LIMIT, Contender
from tests.benchmarks.processes import Child, Processes, free_ports
from tests.benchmarks.socks import Failed, Route

AUTHORITIES = 3
RELAYS = 5  # the authorities too; as many as ours has, so that circuits spread over as many processes
PROGRAMS = ("tor", "tor-gencert")
# Authorities vote 4 s before each multiple of 5 s. One that comes up between vote and multiple votes at once, knows
# no relay, and the start takes 50 s instead of 9: so a start begins 3.5 s after a multiple.
_VOTE_ROUND, _START_AT = 5.0, 3.5
_READY = b"Bootstrapped 100%"
_LOOK = 0.01  # seconds between looks at a log, and between questions to the client

_EVERY = """\
TestingTorNetwork 1
RunAsDaemon 0
ShutdownWaitLength 0
CookieAuthentication 0
Log notice stdout
BandwidthRate 2000 MBytes
BandwidthBurst 2000 MBytes
PathsNeededToBuildCircuits 0.67
V3AuthNIntervalsValid 3
OutboundBindAddress 127.0.0.1
"""
_RELAY = """\
Address 127.0.0.1
SocksPort 0
RelayBandwidthRate 2000 MBytes
RelayBandwidthBurst 2000 MBytes
MaxAdvertisedBandwidth 2000 MBytes
ExitRelay 1
ExitPolicyRejectPrivate 0
ExitPolicy accept *:*
IPv6Exit 0
AssumeReachable 1
ContactInfo none
ServerDNSDetectHijacking 0
ServerDNSTestAddresses
ServerDNSAllowBrokenConfig 1
"""
# A relay asks for its first list less and less often. A new client that chose it to get descriptors from would be sent
# away and try again 4 s later: so only authorities, which make the list, hand it out.
_NO_DIRECTORY = "DirCache 0\n"
# Relays are chosen by the most they have carried in a second. In a fresh network that is next to nothing, for most of
# them 0, and one that has 1 would be every exit; later it differs by chance. So all remember more than is believed.
_HISTORY = """\
BWHistory{way}Ends {ends}
BWHistory{way}Interval 86400
BWHistory{way}Values 86400000000
BWHistory{way}Maxima 2000000000
"""
_AUTHORITY = """\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingV3AuthInitialVotingInterval 5
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 20
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
TestingMinExitFlagThreshold 0
MinMeasuredBWsForAuthToIgnoreAdvertised 0
"""
_CLIENT = """\
ClientOnly 1
ClientRejectInternalAddresses 0
ClientDNSRejectInternalAddresses 0
LearnCircuitBuildTimeout 0
CircuitBuildTimeout 30
"""
# What each part of "fast" adds. The congestion window grows at once and never shrinks.
_FAST_EVERY = """\
AvoidDiskWrites 1
NumCPUs 2
ConstrainedSockets 0
"""
_FAST_AUTHORITY = """\
ConsensusParams cc_alg=2 cc_vegas_alpha_exit=1000 cc_vegas_beta_exit=1000 cc_vegas_gamma_exit=1000 \
cc_vegas_delta_exit=4000 cc_sscap_exit=5000
"""
_FAST_CLIENT = """\
ConnectionPadding 0
CircuitPadding 0
ConfluxEnabled 0
"""
# The scheduler sends a cell at once and not at its next tick. KIST with a tick of 1 ms is no quicker here and can hang
# for ever: tor rounds the time since the last tick up, so a full socket is tried again without a look at any other,
# and two relays whose link is full both ways never read what would free it.
_FAST_SCHEDULER = "Schedulers Vanilla\n"


def installed() -> bool:
    """Whether C tor can be compared with here."""
    return all(shutil.which(program) for program in PROGRAMS)


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one relay: `folder` is copied into its data directory."""

    folder: Path
    relay: str  # fingerprint of its relay key
    authority: str = ""  # fingerprint of the long-term key, if it is an authority


def make_keys(folder: Path, processes: Processes, relays: int = RELAYS) -> list[Keys]:
    """Keys for all relays, the authorities first, made once: no network's start has to wait for them."""
    return [_make(folder / f"relay{number}", processes, authority=number < AUTHORITIES) for number in range(relays)]


def _make(folder: Path, processes: Processes, *, authority: bool) -> Keys:
    folder.mkdir(mode=0o700, parents=True)
    long_term = _make_authority(folder, processes) if authority else ""
    # A relay's fingerprint is told only to one that knows some authority: any will do.
    somebody = "nobody 127.0.0.1:1 " + 40 * "f"
    missing = str(folder / "none")
    quiet = ["-f", missing, "--ignore-missing-torrc", "--defaults-torrc", missing, "--quiet", "--list-fingerprint"]
    options = ["--ORPort", "1", "--SocksPort", "0", "--DataDirectory", str(folder), "--DirAuthority", somebody]
    shown = _run(processes, ["tor", *quiet, *options])
    return Keys(folder, "".join(shown.splitlines()[-1].split()[1:]), long_term)


def _make_authority(folder: Path, processes: Processes) -> str:
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    certificate = keys / "authority_certificate"
    files = {"-i": keys / "authority_identity_key", "-s": keys / "authority_signing_key", "-c": certificate}
    names = [word for flag, file in files.items() for word in (flag, str(file))]
    password = folder / "password"
    password.write_text("benchmark\n")
    with open(password) as opened:
        handle = opened.fileno()
        command = ["tor-gencert", "--create-identity-key", "-m", "12", "--passphrase-fd", str(handle), *names]
        _run(processes, command, (handle,))
    password.unlink()
    words = [line.split()[1] for line in certificate.read_text().splitlines() if line.startswith("fingerprint ")]
    return words[0]


def _run(processes: Processes, command: Sequence[str], handles: Sequence[int] = ()) -> str:
    child = processes.start(command, pipe=True, handles=handles)
    output, _ = child.communicate(timeout=START_LIMIT)
    if child.returncode:
        raise Failed(f"{command[0]} failed")
    return output.decode()


class CTor(Contender):
    """A C tor network; any number run side by side with the same keys."""

    has_circuits = True

    def __init__(
        self,
        name: str,
        target: int,
        processes: Processes,
        folder: Path,
        keys: Sequence[Keys],
        *,
        fast: bool,
    ) -> None:
        super().__init__(name, target)
        self._processes = processes
        self._folder = folder
        self._keys = keys
        self._fast = fast
        self._lines = ""
        self._control = 0

    def start(self) -> None:
        """The clock runs from the first process to the first byte; what comes after is to make all circuits alike."""
        self._folder.mkdir(parents=True)
        socks, self._control, *ports = free_ports(2 + len(self._keys) + AUTHORITIES)
        directory_ports, or_ports = ports[:AUTHORITIES], ports[AUTHORITIES:]
        self._lines = "".join(
            f"DirAuthority relay{number} orport={or_ports[number]} no-v2 v3ident={keys.authority} "
            f"127.0.0.1:{directory_ports[number]} {keys.relay}\n"
            for number, keys in enumerate(self._keys[:AUTHORITIES])
        )
        (self._folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        files = [
            self._write_relay(number, or_port, directory_ports[number] if number < AUTHORITIES else 0)
            for number, or_port in enumerate(or_ports)
        ]
        self.route = Route(socks, self.target)
        client = self._write_client(self._folder / "client", socks, f"ControlPort 127.0.0.1:{self._control}\n")
        sleep((_START_AT - time.time()) % _VOTE_ROUND)
        begun = monotonic()
        self.relays = [self._start(file) for file in files]
        self.client = self._start(client)
        deadline = Deadline(START_LIMIT)
        # Requests before there is a consensus make the client busy with failing: it would not get one.
        self._wait_ready(client, deadline)
        work.until_first_byte(self.route, self._all_run, deadline.left())
        self._started(begun)
        # A relay without the consensus agrees on no congestion control: circuits that were built before go.
        for relay in self.relays[AUTHORITIES:]:
            relay.send_signal(signal.SIGHUP)  # it asks again now, not when it would
        for file in files:
            self._wait_ready(file, deadline)
        while relays_known(self._control) < len(self._keys):
            self._check(deadline)
            sleep(_LOOK)
        close_circuits(self._control)

    def _wait_ready(self, file: Path, deadline: Deadline) -> None:
        log = file.with_name("log")
        while _READY not in log.read_bytes():
            self._check(deadline)
            sleep(_LOOK)

    def _check(self, deadline: Deadline) -> None:
        if deadline.expired or not self._all_run():
            logs = [path.read_text(errors="replace")[-1_000:] for path in sorted(self._folder.glob("*/log"))]
            raise Failed("C tor did not start:\n" + "".join(logs))

    def _all_run(self) -> bool:
        return all(child.poll() is None for child in self.children())

    def another(self, folder: Path) -> Contender:
        """With the same keys and other ports."""
        return CTor(self.name, self.target, self._processes, folder, self._keys, fast=self._fast)

    def client_command(self, folder: Path, port: int) -> Sequence[str | Path]:
        """A client that was never there before."""
        return self._command(self._write_client(folder, port, ""))

    def build(self, count: int, at_once: int) -> Builds:
        """Over the client's control port."""
        return build_tors(self._control, count, at_once)

    def _write_relay(self, number: int, or_port: int, directory_port: int) -> Path:
        """A plain relay has no directory port: 0."""
        folder = self._folder / f"relay{number}"
        shutil.copytree(self._keys[number].folder, folder)
        ends = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        (folder / "state").write_text("".join(_HISTORY.format(way=way, ends=ends) for way in ("Read", "Write")))
        own = (
            f"Nickname relay{number}\nORPort 127.0.0.1:{or_port}\n"
            f"ServerDNSResolvConfFile {self._folder / 'resolv.conf'}\n"
        )
        if not directory_port:
            return self._write(folder, own + _RELAY + _NO_DIRECTORY)
        own += f"DirPort 127.0.0.1:{directory_port}\n"
        fast = _FAST_AUTHORITY if self._fast else ""
        return self._write(folder, own + _RELAY + _AUTHORITY + fast)

    def _write_client(self, folder: Path, port: int, more: str) -> Path:
        folder.mkdir(mode=0o700, exist_ok=True)
        fast = _FAST_CLIENT if self._fast else ""
        return self._write(folder, f"SocksPort 127.0.0.1:{port}\n{more}" + _CLIENT + fast)

    def _write(self, folder: Path, own: str) -> Path:
        file = folder / "torrc"
        fast = _FAST_SCHEDULER + _FAST_EVERY if self._fast else ""
        # Should the benchmark vanish without a word, its tors notice and end.
        data = f"DataDirectory {folder}\n__OwningControllerProcess {os.getpid()}\n"
        file.write_text(data + _EVERY + fast + self._lines + own)
        return file

    def _command(self, file: Path) -> Sequence[str | Path]:
        return ["tor", "-f", file, "--defaults-torrc", file.with_name("none")]

    def _start(self, file: Path) -> Child:
        return self._processes.start(self._command(file), file.with_name("log"))
