"""The client: a directory, links to first hops, a pool of circuits, and one entrance for everything: `connect`.

    with Client(gateways, network) as client:
        sock = client.connect("example.org", 80)
        page = client.session().get("https://example.org/")

`connect` gives an ordinary socket, so `ssl` and `requests` stand on it; the proxy hands sockets it accepted to the
same kind of stream. Names are looked up at the exit; this process resolves none but its gateways'.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from common.circuit.trace import Trace
from common.directory.addresses import Address
from common.directory.document import RelayEntry
from common.directory.path import named
from common.errors import Closed, EndReason, Malformed, Refused
from common.net.deadline import Deadline
from common.net.plug import Plug
from common.net.pump import Pump
from common.roles.client.bootstrap import DirectoryClient
from common.roles.client.guard_keeper import GuardKeeper
from common.roles.client.pool import ANSWER_TIME, CircuitPool, PathWishes
from common.roles.client.stream_socket import StreamSocket
from common.roles.client.views import CircuitView, circuit_views
from common.roles.client.wish import Isolation, Opening, Question, Wish
from common.roles.links import Links
from common.roles.memory_budget import MemoryBudget
from common.wire.codec import pack_short_string
from common.wire.messages import IPAddress, Resolve, Sought

if TYPE_CHECKING:
    from common.roles.client.http import NetworkSession

OPEN_TIMEOUT = 30.0  # seconds for a stream, all tries together: what browsers and ssh wait
START_TIMEOUT = 60.0  # seconds until the first circuit
RELAYS_TIMEOUT = 20.0  # seconds of them for a document with relays enough for a path
SWEEP = 30.0  # seconds between looks for old circuits and idle links
STOP_TIMEOUT = 5.0  # seconds for an orderly end

Progress = Callable[[int, str], None]
_DIRECTORY, READY = 50, 100  # percent: the directory's part ends at the first, the circuit's at the second


class Client:
    """Thread-safe. `start` or `with`; `close` ends every stream."""

    def __init__(
        self,
        gateways: Sequence[tuple[Address, bytes]],
        network: str,
        *,
        cache: Path | None = None,
        guards: Path | None = None,
        wishes: PathWishes | None = None,
        progress: Progress = lambda _percent, _text: None,
        warn: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """`gateways`: addresses and Ed25519 keys (32 bytes), of which more than half are believed.
        `guards`: file that keeps the entry guards, without which they are chosen anew each time.

        `cache`: file that keeps the directory document; with several gateways each has its own beside it.
        `progress` hears percent and a sentence while starting, `warn` a sentence when paths are too short.
        """
        self.pump = Pump()
        self.links = Links(self.pump)
        self.on_hop: Callable[[int, int], None] = lambda _done, _of: None  # hears of each hop of each circuit
        self._progress = progress
        self._warn = warn
        self._warned = ""
        self._wishes = wishes or PathWishes()
        self._started = False
        self.started_to = (0, "starting")  # percent, and a sentence
        self.directory = DirectoryClient(
            gateways, network, cache, on_progress=self._directory_step, on_list=self._listed
        )
        self.pool = CircuitPool(
            self.relays,
            self.directory.refresh_soon,
            self.links,
            self.pump,
            self._wishes,
            self._warn_once,
            self._hop_done,
            GuardKeeper(guards),
        )

    # ---- life

    def start(self, timeout: float = START_TIMEOUT) -> None:
        """Gets the directory and builds the first circuit; raises `DirectoryError` with the reason it cannot."""
        self.begin()
        self.wait_ready(timeout)

    def begin(self) -> None:
        """Begins to start, and returns at once; `wait_ready` is to follow, on any thread."""
        self.pump.start()
        self._started = True
        self.directory.start()

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """The rest of `start`."""
        deadline = Deadline(timeout)
        relays = min(2, self._wishes.most)
        self.directory.wait_for(relays, Deadline(min(timeout, RELAYS_TIMEOUT)))
        self._check_names(self._wishes)
        self._step(_DIRECTORY, f"{len(self.relays())} relays are listed, building a circuit")
        self.pool.start()
        self.pool.wait_ready(deadline)
        self._step(READY, "ready")
        self.pump.call_every(SWEEP, self._sweep)
        MemoryBudget(self.links, self.pump).start()

    def reconfigure(self, wishes: PathWishes) -> None:
        """Other wishes than before: circuits of now carry no further stream, streams that are open go on.

        Raises `DirectoryError`, and nothing changes, when the exit asked for is not listed.
        """
        if wishes != self._wishes:
            self._check_names(wishes)
            self._wishes = wishes
            self.pool.reconfigure(wishes)

    def close(self) -> None:
        """Ends everything; nothing is left running."""
        deadline = Deadline(STOP_TIMEOUT)
        self.pool.close()
        self.directory.stop(deadline.left())
        self.links.close(deadline)
        self.pump.stop(deadline)
        self.pool.join(deadline)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- streams

    def connect(
        self,
        host: str,
        port: int,
        isolation: Isolation = (),
        timeout: float = OPEN_TIMEOUT,
        trace: Trace | None = None,
    ) -> StreamSocket:
        """A socket to a target, through a circuit that only `isolation` uses; waits. `trace` sees its cells.

        Raises `Refused` with the reason: refused by the target, not found, no exit allows it, timed out, ...
        """
        ours, theirs = socket.socketpair()
        result = StreamSocket(theirs.detach())
        done = threading.Event()
        reasons: list[EndReason] = []

        def answered(_address: IPAddress) -> bytes:
            done.set()
            return b""

        def refused(reason: EndReason) -> None:
            reasons.append(reason)
            done.set()

        def broken(reason: EndReason) -> None:
            result.broken_by = reason

        plug = self.pump.attach(ours, _Quiet())
        opening = Opening(host, port, plug, answered, refused, broken, isolation)
        opening.trace = trace
        result.opening = opening
        try:
            self.open(opening, timeout)
            done.wait()
            if reasons:
                raise Refused(reasons[0], _why(host, port, reasons[0]))
        except BaseException:
            result.abort()
            result.close()
            raise
        return result

    def session(self, isolation: Isolation = ()) -> "NetworkSession":
        """A `requests.Session` whose every connection is a stream of this client; use `with`, or close it."""
        from common.roles.client.http import NetworkSession  # noqa: PLC0415  a proxy need not load it

        return NetworkSession(self, isolation)

    def open(self, opening: Opening, timeout: float = OPEN_TIMEOUT) -> None:
        """Opens a stream; never waits, the opening's callbacks tell."""
        try:
            pack_short_string(opening.host)
        except Malformed:
            opening.fail(EndReason.NOT_FOUND)
            return
        if not 0 < opening.port < 65_536:
            opening.fail(EndReason.REFUSED)
            return
        self._begin(opening, timeout)

    def resolve(
        self,
        host: str,
        isolation: Isolation = (),
        timeout: float = OPEN_TIMEOUT,
        trace: Trace | None = None,
    ) -> tuple[IPAddress, ...]:
        """The addresses of a name, looked up at an exit; waits. Raises `Refused`."""
        done = threading.Event()
        answers: list[tuple[EndReason, tuple[IPAddress, ...], str]] = []

        def answered(reason: EndReason, addresses: tuple[IPAddress, ...], name: str) -> None:
            answers.append((reason, addresses, name))
            done.set()

        question = Question(host, answered, isolation)
        question.trace = trace
        self.ask(question, timeout)
        done.wait()
        reason, addresses, _ = answers[0]
        if not addresses:
            raise Refused(reason, f"no address was found for {host}")
        return addresses

    def reverse(self, address: str, isolation: Isolation = (), timeout: float = OPEN_TIMEOUT) -> str:
        """The name of an address, looked up at an exit; waits. Raises `Refused`."""
        done = threading.Event()
        answers: list[tuple[EndReason, str]] = []

        def answered(reason: EndReason, _addresses: tuple[IPAddress, ...], name: str) -> None:
            answers.append((reason, name))
            done.set()

        self.ask(Question(address, answered, isolation, Sought.NAME), timeout)
        done.wait()
        reason, name = answers[0]
        if not name:
            raise Refused(reason, f"no name was found for {address}")
        return name

    def ask(self, question: Question, timeout: float = OPEN_TIMEOUT) -> None:
        """Looks a name or an address up; never waits, the question's callback tells."""
        try:
            Resolve(1, question.host, question.sought).encode()
        except Malformed:
            question.fail(EndReason.NOT_FOUND)
            return
        self._begin(question, timeout)

    # ---- what others may ask

    def relays(self) -> tuple[RelayEntry, ...]:
        """The relays of the directory document held now."""
        document = self.directory.document
        return tuple(document.relays) if document is not None else ()

    def circuits(self) -> tuple[CircuitView, ...]:
        """The live circuits and their streams, as they are at this moment."""
        return circuit_views(self.pool.circuits, self.pool.retired)

    def new_identity(self) -> None:
        """No circuit used so far carries another stream."""
        self.pool.renew()

    # ---- helpers

    def _begin(self, wish: Wish, timeout: float) -> None:
        if not self._started:
            raise Closed("the client is not started: use `with Client(...) as client`, or call start()")
        self._watch(wish, Deadline(timeout), ANSWER_TIME)
        self.pool.assign(wish)

    def _watch(self, wish: Wish, deadline: Deadline, seconds: float) -> None:
        """Looks after a wish now and then, and ends it when its time is over."""

        def look() -> None:
            if deadline.expired:
                wish.fail(EndReason.TIMEOUT)
            elif not wish.settled:
                self._watch(wish, deadline, self.pool.hurry(wish))

        wish.timer = self.pump.call_later(min(seconds, deadline.left()), look)

    def _check_names(self, wishes: PathWishes) -> None:
        """Whether the relays that the user named are listed; raises `DirectoryError` without the exit."""
        relays = list(self.relays())
        wishes.fixed_exit(relays)
        for name in wishes.exclude:
            if named(relays, name) is None:
                self._warn(f"no relay called {name} is listed: it cannot be excluded before it is")

    def _sweep(self) -> None:
        self.pool.sweep()
        self.links.close_idle()

    def _listed(self) -> None:
        """A new list came, on a thread of the directory's."""
        self.pump.call(self.pool.review)

    def _directory_step(self, percent: int, text: str) -> None:
        self._step(percent * _DIRECTORY // 101, text)

    def _hop_done(self, done: int, of: int) -> None:
        self.on_hop(done, of)
        self._step(_DIRECTORY + (READY - _DIRECTORY) * done // (of + 1), f"relay {done} of {of} answered")

    def _step(self, percent: int, text: str) -> None:
        """Only forward: circuits are built side by side."""
        if percent > self.started_to[0]:
            self.started_to = percent, text
            self._progress(percent, text)

    def _warn_once(self, text: str) -> None:
        if text != self._warned:
            self._warned = text
            self._warn(text)


class _Quiet:
    """Owns a socket whose stream is not open yet: reads nothing."""

    def plug_connected(self, plug: Plug) -> None:
        """A socket pair is connected."""

    def plug_wants(self, plug: Plug) -> int:
        """Nothing yet."""
        return 0

    def plug_received(self, plug: Plug, data: bytes) -> None:
        """Not while nothing is wanted."""

    def plug_ended(self, plug: Plug) -> None:
        """Heard again by the stream."""

    def plug_drained(self, plug: Plug, count: int) -> None:
        """Nothing was written."""

    def plug_failed(self, plug: Plug, error: OSError) -> None:
        """The caller closed its end; the stream will notice."""


def _why(host: str, port: int, reason: EndReason) -> str:
    """A refusal as a sentence for the person who asked."""
    target = f"{host}:{port}"
    return {
        EndReason.REFUSED: f"{target} refuses connections: is the server running, and on this port?",
        EndReason.UNREACHABLE: f"the exit cannot reach {target}",
        EndReason.TIMEOUT: f"{target} did not answer in time",
        EndReason.NOT_FOUND: f"no address is known for {host}: check the name",
        EndReason.POLICY: f"no relay lets streams out to {target}: its exit policy refuses that address or port",
        EndReason.LIMIT: f"no more streams are taken now, here or by exits to {target}: try again in a moment",
    }.get(reason, f"the network could not carry the stream to {target}: try again")
