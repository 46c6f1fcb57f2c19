"""The yardstick: a private C tor network on loopback, three authorities that are relays and exits, one client.

"fast" are the quickest settings known to us; all are stock options, but those in the consensus need control of
the authorities, which a user of the public network has not got. "default" is as shipped. Bandwidth limits are
raised in both, and the learnt circuit timeout is off: it gives circuits up that are built 16 at a time.
"""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from common.net.deadline import Deadline
from tests.benchmarks import work
from tests.benchmarks.builds import Builds, build_tors
from tests.benchmarks.networks import START_LIMIT, Contender
from tests.benchmarks.processes import Child, Processes, free_ports
from tests.benchmarks.socks import Failed, Route

AUTHORITIES = 3
PROGRAMS = ("tor", "tor-gencert")
# Authorities vote 4 s before each multiple of 5 s. One that comes up between vote and multiple votes at once, knows
# no relay, and the start takes 50 s instead of 9: so a start begins 3.5 s after a multiple.
_VOTE_ROUND, _START_AT = 5.0, 3.5
_READY = b"Bootstrapped 100%"
_LOOK = 0.01  # seconds between looks at the client's log

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
_AUTHORITY = """\
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
class AuthorityKeys:
    """The keys of one authority: `folder` is copied into its data directory."""

    folder: Path
    authority: str  # fingerprint of the long-term key
    relay: str  # fingerprint of its relay key


def make_keys(folder: Path, processes: Processes) -> list[AuthorityKeys]:
    """Keys for all authorities, made once: no network's start has to wait for them."""
    return [_make_authority(folder / f"authority{number}", processes) for number in range(AUTHORITIES)]


def _make_authority(folder: Path, processes: Processes) -> AuthorityKeys:
    keys = folder / "keys"
    keys.mkdir(mode=0o700, parents=True)
    folder.chmod(0o700)
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
    # A relay's fingerprint is told only to one that knows some authority: any will do.
    somebody = "nobody 127.0.0.1:1 " + 40 * "f"
    missing = str(folder / "none")
    quiet = ["-f", missing, "--ignore-missing-torrc", "--defaults-torrc", missing, "--quiet", "--list-fingerprint"]
    options = ["--ORPort", "1", "--SocksPort", "0", "--DataDirectory", str(folder), "--DirAuthority", somebody]
    shown = _run(processes, ["tor", *quiet, *options])
    words = [line.split()[1] for line in certificate.read_text().splitlines() if line.startswith("fingerprint ")]
    return AuthorityKeys(folder, words[0], "".join(shown.splitlines()[-1].split()[1:]))


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
        keys: Sequence[AuthorityKeys],
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
        """The clock runs from the first process to the first byte."""
        self._folder.mkdir(parents=True)
        or_ports, directory_ports = free_ports(AUTHORITIES), free_ports(AUTHORITIES)
        self._lines = "".join(
            f"DirAuthority authority{number} orport={or_ports[number]} no-v2 v3ident={keys.authority} "
            f"127.0.0.1:{directory_ports[number]} {keys.relay}\n"
            for number, keys in enumerate(self._keys)
        )
        files = [
            self._write_authority(number, or_ports[number], directory_ports[number])
            for number in range(AUTHORITIES)
        ]
        socks, self._control = free_ports(2)
        self.route = Route(socks, self.target)
        client = self._write_client(self._folder / "client", socks, f"ControlPort 127.0.0.1:{self._control}\n")
        sleep((_START_AT - time.time()) % _VOTE_ROUND)
        begun = monotonic()
        self.relays = [self._start(file) for file in files]
        child = self.client = self._start(client)
        deadline = Deadline(START_LIMIT)
        # Requests before there is a consensus make the client busy with failing: it would not get one.
        while _READY not in client.with_name("log").read_bytes():
            if child.poll() is not None or deadline.expired:
                raise Failed(
                    "C tor did not start:\n" + client.with_name("log").read_text(errors="replace")[-2_000:]
                )
            sleep(_LOOK)
        work.until_first_byte(self.route, lambda: child.poll() is None, deadline.left())
        self._started(begun)

    def another(self, folder: Path) -> Contender:
        """With the same keys and other ports."""
        return CTor(self.name, self.target, self._processes, folder, self._keys, fast=self._fast)

    def client_command(self, folder: Path, port: int) -> Sequence[str | Path]:
        """A client that was never there before."""
        return self._command(self._write_client(folder, port, ""))

    def build(self, count: int, at_once: int) -> Builds:
        """Over the client's control port."""
        return build_tors(self._control, count, at_once)

    def _write_authority(self, number: int, or_port: int, directory_port: int) -> Path:
        folder = self._folder / f"authority{number}"
        shutil.copytree(self._keys[number].folder, folder)
        resolver = self._folder / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\n")
        own = (
            f"Nickname authority{number}\nORPort 127.0.0.1:{or_port}\nDirPort 127.0.0.1:{directory_port}\n"
            f"ServerDNSResolvConfFile {resolver}\n"
        )
        fast = _FAST_AUTHORITY if self._fast else ""
        return self._write(folder, own + _AUTHORITY + fast)

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
