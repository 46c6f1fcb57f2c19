"""Dialling back: does a relay's advertised address lead to that relay?

* One thread has all dials under way, at most `MAX_DIALS`, each for `DIAL_TIME`: addresses that swallow what is
  sent to them do not keep honest relays waiting.
* Names are looked up on a few threads of their own, since a look-up cannot be interrupted; one that takes longer
  than `LOOKUP_TIME` has failed, and who waits behind too many others is told to come again.
* The address judged is the address dialled.
"""

import errno
import logging
import os
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from common.directory.addresses import Address, IpAddress
from common.directory.registry_actions import CheckAddress
from common.errors import AuthenticationFailed, Closed
from common.net.tls import TlsSession, client_context

log = logging.getLogger(__name__)

DIAL_TIME = 3.0  # seconds for all of a relay's addresses together
LOOKUP_TIME = 5.0  # seconds for a name
MAX_DIALS = 128  # at once: one a second for each relay that could be dead, three times over
MAX_LOOKED_UP = 4  # IP addresses of one name that are tried
RESOLVERS = 8  # look-ups at once
RECV_SIZE = 16_384

Report = Callable[[CheckAddress, str | None], None]


@dataclass(slots=True, eq=False)
class _Dial:
    check: CheckAddress
    deadline: float = 0.0
    addresses: list[tuple[str, int]] = field(default_factory=list)  # still to be tried
    failure: str = ""
    sock: socket.socket | None = None
    tls: TlsSession | None = None  # once connected


class Dialler:
    """Inert until `start`. `check` may be called from any thread; then `report(check, failure)` is called on a
    thread of the dialler, with a sentence or None.

    `may_advertise` says which addresses others can dial. `wanted` is asked before a look begins: of a relay that
    has given up there is no look and no report.
    """

    def __init__(
        self,
        report: Report,
        may_advertise: Callable[[IpAddress], bool],
        wanted: Callable[[CheckAddress], bool],
    ) -> None:
        self._report = report
        self._wanted = wanted
        self._may_advertise = may_advertise
        self._context = client_context()
        self._names: queue.SimpleQueue[_Dial | None] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[tuple[_Dial, list[str] | None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        # The dialling thread's own.
        self._looking: dict[_Dial, float] = {}  # names being looked up, until when
        self._ready: deque[_Dial] = deque()  # to be dialled
        self._dialling: set[_Dial] = set()
        self._thread = threading.Thread(target=self._run, name="gateway-dial", daemon=True)
        self._resolvers = [
            threading.Thread(target=self._resolve, name="gateway-lookup", daemon=True) for _ in range(RESOLVERS)
        ]

    # ---- any thread ----

    def start(self) -> None:
        """Begins to dial."""
        for sock in (self._wake_in, self._wake_out):
            sock.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        for thread in [self._thread, *self._resolvers]:
            thread.start()

    def check(self, check: CheckAddress) -> None:
        """Looks at an address; `report` tells."""
        dial = _Dial(check)
        if check.descriptor.address.ip is not None:
            self._found.put((dial, [check.descriptor.address.host]))
        else:
            dial.deadline = time.monotonic() + LOOKUP_TIME
            self._found.put((dial, None))  # first: the answer must find it
            self._names.put(dial)
        self._wake()

    def stop(self, timeout: float) -> None:
        """Ends all dials; a look-up that hangs is left to end by itself. Idempotent."""
        self._stopping.set()
        self._wake()
        for _ in self._resolvers:
            self._names.put(None)
        started = [thread for thread in [self._thread, *self._resolvers] if thread.ident is not None]
        end = time.monotonic() + timeout
        for thread in started:
            thread.join(max(0.0, end - time.monotonic()))
        if not self._thread.is_alive():
            self._close()

    def _wake(self) -> None:
        try:
            self._wake_out.send(b"\0")
        except OSError:
            pass  # full: a wake-up is pending already; or closed: nobody is left to wake

    def _close(self) -> None:
        for dial in self._dialling:
            if dial.sock is not None:
                dial.sock.close()
        self._dialling.clear()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    # ---- the resolvers' threads ----

    def _resolve(self) -> None:
        while (dial := self._names.get()) is not None and not self._stopping.is_set():
            address = dial.check.descriptor.address
            if time.monotonic() > dial.deadline:
                continue  # it was told already
            try:
                found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
                hosts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
            except (OSError, UnicodeError):
                hosts = []
            self._found.put((dial, hosts))
            self._wake()

    # ---- the dialling thread ----

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except Exception:
                log.exception("unexpected error while dialling relays")
                self._stopping.wait(0.1)

    def _turn(self) -> None:
        waiting = self._dialling or self._looking
        for key, _ in self._selector.select(0.25 if waiting else None):
            if isinstance(key.data, _Dial):
                self._step(key.data)
            else:
                self._wake_in.recv(65_536)
        self._take_found()
        while self._ready and len(self._dialling) < MAX_DIALS:
            dial = self._ready.popleft()
            if self._wanted(dial.check):
                self._begin(dial)
        self._expire(time.monotonic())

    def _take_found(self) -> None:
        while not self._found.empty():
            dial, hosts = self._found.get_nowait()
            if hosts is None:
                self._looking[dial] = dial.deadline
                continue
            if dial.check.descriptor.address.ip is None and self._looking.pop(dial, None) is None:
                continue  # too late
            address = dial.check.descriptor.address
            if not hosts:
                self._report(dial.check, _unknown(address))
                continue
            dial.failure = (
                f"{address} is not an address that others can dial: advertise a public one, "
                "or a private one to a gateway with allow_private"
            )
            for host in hosts[:MAX_LOOKED_UP]:
                ip = Address(host, address.port).ip
                if ip is not None and self._may_advertise(ip):
                    dial.addresses.append((host, address.port))
            self._ready.append(dial)

    def _begin(self, dial: _Dial) -> None:
        dial.deadline = time.monotonic() + DIAL_TIME
        self._dialling.add(dial)
        self._next_address(dial)

    def _next_address(self, dial: _Dial) -> None:
        self._hang_up(dial)
        while dial.addresses:
            host, port = dial.addresses.pop(0)
            dial.failure = f"nothing answers at {dial.check.descriptor.address}: can it be reached from outside?"
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            if sock.connect_ex((host, port)) in (0, errno.EINPROGRESS):
                dial.sock = sock
                self._selector.register(sock, selectors.EVENT_WRITE, dial)
                return
            sock.close()
        self._finish(dial, dial.failure)

    def _step(self, dial: _Dial) -> None:
        """The socket is ready for what is waited for."""
        if dial not in self._dialling or dial.sock is None:
            return
        try:
            if dial.tls is None:
                self._connected(dial, dial.sock)
            elif self._shaken(dial.sock, dial.tls):
                if dial.tls.peer_identity() != dial.check.descriptor.identity:
                    raise AuthenticationFailed
                self._finish(dial, None)
        except AuthenticationFailed:
            address = dial.check.descriptor.address
            dial.failure = f"another relay answers at {address}: is it the right address to advertise?"
            self._next_address(dial)
        except (Closed, OSError):
            self._next_address(dial)

    def _connected(self, dial: _Dial, sock: socket.socket) -> None:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        dial.tls = TlsSession(self._context, server_side=False)
        dial.tls.handshake()
        sock.send(dial.tls.outgoing())  # less than any socket buffer
        self._selector.modify(sock, selectors.EVENT_READ, dial)

    def _shaken(self, sock: socket.socket, tls: TlsSession) -> bool:
        data = sock.recv(RECV_SIZE)
        if not data:
            raise Closed("connection ended")
        tls.feed(data)
        return tls.handshake()  # its last word is not said: the identity is known, and nothing is to be sent

    def _expire(self, now: float) -> None:
        for dial in [dial for dial, end in self._looking.items() if end <= now]:
            del self._looking[dial]
            self._report(dial.check, _unknown(dial.check.descriptor.address))
        for dial in [dial for dial in self._dialling if dial.deadline <= now]:
            self._finish(dial, dial.failure)

    def _hang_up(self, dial: _Dial) -> None:
        if dial.sock is not None:
            self._selector.unregister(dial.sock)
            dial.sock.close()
        dial.sock = dial.tls = None

    def _finish(self, dial: _Dial, failure: str | None) -> None:
        self._hang_up(dial)
        self._dialling.discard(dial)
        self._report(dial.check, failure)


def _unknown(address: Address) -> str:
    return f"the gateway cannot look up {address.host}: is it the right address to advertise?"
