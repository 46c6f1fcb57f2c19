"""One thread that serves the links and the plain sockets of all streams: 2,000 streams must not be 4,000 threads.

* The poller, the timers and every callback belong to the pump's thread; nothing it runs may wait.
* `call` is the only way in for other threads. A byte on a socketpair wakes the pump, and only when it waits.
* An unexpected exception in a callback is logged and ends one plug or link at most; the pump goes on.
* What is read in one look at the poller is one turn: it is sent at its end.
"""

import errno
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from common.net.busy_poll import BusyPoll
from common.net.deadline import Deadline
from common.net.plug import Plug, PlugOwner
from common.net.poller import READ, WRITE, Handler, Poller
from common.net.timers import Timer, Timers
from common.net.turn import TURN

__all__ = ["Plug", "PlugOwner", "Pump"]

_log = logging.getLogger(__name__)

READ_BUFFER = 262_144  # bytes: 16 long cells, beyond which nothing is gained
ACCEPTS = 64  # connections taken per wake-up: a burst is served quickly, and the streams still get their turn
ACCEPT_PAUSE = 0.2  # seconds without accepting when descriptors run out: some streams end in that time
ACCEPT_LOG = 60.0  # seconds between two log lines about that
# What the kernel takes from a plug before it can send it. It would take 4 MiB, and a peer that has stopped reading
# would pass for a quick one for so long that its stream's window grows. Transfers are as quick with this.
MOST_UNSENT = 262_144  # bytes
_HAS_NOTSENT_LOWAT = hasattr(socket, "TCP_NOTSENT_LOWAT")  # Windows has none
# A target that vanishes without a word would keep its stream, descriptor and circuit for ever. Four minutes tell;
# whoever is alive may be silent for days. With data on its way to it the kernel does not ask, and gives up after a
# quarter of an hour. (TCP_USER_TIMEOUT would shorten that, and end whoever is alive and only does not read.) The
# four calls cost 2 us for each connect.
_KEEPALIVE = {"TCP_KEEPIDLE": 120, "TCP_KEEPINTVL": 30, "TCP_KEEPCNT": 4}  # seconds, seconds, probes
_KEEPALIVE_OPTIONS = [(getattr(socket, name), _KEEPALIVE[name]) for name in _KEEPALIVE if hasattr(socket, name)]
_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK})  # a connect


class Member(Protocol):
    """A socket that the pump serves."""

    def dispose(self) -> None:
        """Closes the socket now; idempotent, and the owner hears nothing."""


class Pump:
    """See the module; `start` it once, `stop` it once."""

    def __init__(self, name: str = "pump") -> None:
        self.name = name
        self.buffer = memoryview(bytearray(READ_BUFFER))  # for one read, used up before the next: its thread only
        self._poller = Poller()
        self._calls: deque[Callable[[], object]] = deque()
        self._timers = Timers(self.call, self._bug)
        self._members: set[Member] = set()
        self._waiting = False
        self._stopping = False
        self._stopped = False
        self._wake_lock = threading.Lock()  # guards that nobody wakes a pump whose socketpair is being closed
        self._bell, self._waker = socket.socketpair()
        self._bell.setblocking(False)
        self._waker.setblocking(False)
        self._poller.watch(self._bell.fileno(), READ, self._rung)
        self._no_socket = socket.socket()  # stands in where no socket could be made
        self._no_socket.close()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.ident: int | None = None  # the thread's, once it runs

    def start(self) -> None:
        """Starts the thread; what was attached or called before is served then."""
        self._thread.start()

    def stop(self, deadline: Deadline) -> None:
        """Closes every socket at once (owners hear nothing), and joins the thread. Idempotent."""
        self.call(self._end)
        if self._thread.ident is None:
            self._close_all()
        elif not self.on_pump_thread():
            self._thread.join(deadline.left())
            if self._thread.is_alive():
                _log.warning("%s did not stop in time", self.name)

    def on_pump_thread(self) -> bool:
        """Whether the caller runs on the pump's thread."""
        return threading.get_ident() == self.ident

    # ---- any thread ----

    def attach(self, sock: socket.socket, owner: PlugOwner) -> Plug:
        """Serves a connected socket, which is the pump's from now on; reading starts as `plug_wants` says.

        After `stop` the socket is closed at once and the owner hears nothing.
        """
        sock.setblocking(False)
        plug = Plug(self, sock, owner, tcp=_send_at_once(sock))
        self.adopt(plug, plug.look)
        return plug

    def connect(
        self, family: socket.AddressFamily, address: tuple[Any, ...], owner: PlugOwner, timeout: float
    ) -> Plug:
        """Connects to a numeric address; `plug_connected` or `plug_failed` follows within `timeout` seconds.

        What is written before that is queued. Having no descriptor left is a `plug_failed` too, and so is, minutes
        later, a peer that vanished.
        """
        sock = self._no_socket
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            _send_at_once(sock)
            _ask_when_silent(sock)
            code = sock.connect_ex(address)
            if code == errno.EINPROGRESS:
                code = sock.connect_ex(address)  # a host has reached itself by now: no need to wait
        except OSError as failure:
            code = failure.errno or errno.EIO
        plug = Plug(self, sock, owner, tcp=True, connecting=True)
        if not code:
            self.adopt(plug, partial(plug.ready, WRITE))
        elif code in _UNDER_WAY:
            self.adopt(plug, partial(self._await, plug, timeout))
        else:
            self.adopt(plug, partial(plug.broken, OSError(code, os.strerror(code))))
        return plug

    def listen(self, sock: socket.socket, accepted: Callable[[socket.socket], object]) -> Callable[[], None]:
        """Accepts on the pump's thread and hands each socket (blocking, and now its own) to `accepted`.

        The returned function (any thread, idempotent) makes the pump stop listening and close `sock` soon.
        """
        sock.setblocking(False)
        listener = _Listener(self, sock, accepted)
        self.adopt(listener, listener.watch)
        return partial(self.call, listener.dispose)

    def call(self, function: Callable[[], object]) -> None:
        """Runs `function` soon on the pump's thread, in the order of the calls; never after `stop`."""
        self._calls.append(function)
        if self._waiting:
            self._waiting = False
            with self._wake_lock:
                if not self._stopped:
                    try:
                        self._waker.send(b"\0")
                    except BlockingIOError:
                        pass  # full, so it wakes anyway

    def call_later(self, seconds: float, function: Callable[[], object]) -> Timer:
        """Runs `function` on the pump's thread after `seconds`, unless it is cancelled before."""
        entry = self._timers.entry(seconds, function)
        if threading.get_ident() == self.ident:
            self._timers.add(entry)
        else:
            self.call(partial(self._timers.add, entry))
        return entry[2]

    def call_every(self, seconds: float, function: Callable[[], object]) -> None:
        """Runs `function` on the pump's thread every `seconds` until `stop`, also after it raised."""

        def again() -> None:
            self.call_later(seconds, again)
            function()

        self.call_later(seconds, again)

    def waiting(self) -> list[Plug]:
        """The plugs with something queued, those that deliver what is left after `Plug.close` too."""
        return [member for member in list(self._members) if isinstance(member, Plug) and member.queued]

    def adopt(self, member: Member, begin: Callable[[], object]) -> None:
        """Calls `begin` on the pump's thread, and disposes of the member at the end unless it is forgotten."""
        self._members.add(member)  # before looking at `_stopped`: then stop() closes it, or we do, or both
        if self._stopped:
            member.dispose()
        else:
            self.call(begin)

    # ---- the pump's thread: for its members ----

    def _await(self, plug: Plug, timeout: float) -> None:
        """Begins to wait for a connect."""

        def late() -> None:
            plug.broken(TimeoutError(f"not connected within {timeout:g} s"))

        plug.expire_at(self.call_later(timeout, late))
        plug.look()

    def watch(self, fd: int, events: int, handler: Handler) -> None:
        """Changes the interest in a descriptor."""
        self._poller.watch(fd, events, handler)

    def forget(self, member: Member) -> None:
        """A member has closed its socket."""
        self._members.discard(member)

    # ---- the pump's thread: the loop ----

    def _run(self) -> None:
        self.ident = threading.get_ident()
        _finish_turns()
        calls, timers, monotonic = self._calls, self._timers.heap, time.monotonic
        wait = BusyPoll(self._poller.wait).wait
        events: list[tuple[Handler, int]] = []
        due = False
        try:
            while True:
                TURN.begin()
                for handler, ready in events:
                    handler(ready)
                if calls:
                    self._run_calls()
                if due:
                    self._timers.run()
                try:
                    TURN.end()
                except Exception:
                    self._bug()
                left = timers[0][0] - monotonic() if timers else None  # the turn's end may have made one
                due = left is not None and left <= 0
                if self._stopping:
                    return
                self._waiting = True  # before looking: who calls after the look rings
                events = wait(0 if due or calls else left)
                self._waiting = False
                due = due or not events
        finally:
            self._close_all()

    def _run_calls(self) -> None:
        """Not those that come meanwhile: sockets are looked at first."""
        for _ in range(len(self._calls)):
            try:
                self._calls.popleft()()
            except Exception:
                self._bug()

    def _bug(self) -> None:
        _log.exception("%s: unexpected error in a callback", self.name)

    def _rung(self, _ready: int) -> None:
        self._bell.recv(4096)

    def _end(self) -> None:
        self._stopping = True

    def _close_all(self) -> None:
        with self._wake_lock:
            self._stopped = True
            self._waker.close()
        for member in list(self._members):
            member.dispose()
        self._calls.clear()
        self._timers.heap.clear()
        self._poller.close()
        self._bell.close()


class _Listener:
    """A listening socket on the pump."""

    def __init__(self, pump: Pump, sock: socket.socket, accepted: Callable[[socket.socket], object]) -> None:
        self._pump = pump
        self._sock = sock
        self._accepted = accepted
        self._watched = False
        self._silent_until = 0.0

    def watch(self) -> None:
        """Starts, or goes on after a pause."""
        if self._sock.fileno() >= 0:
            self._watched = True
            self._pump.watch(self._sock.fileno(), READ, self.ready)

    def ready(self, _ready: int) -> None:
        """Takes what waits, up to a bound."""
        for _ in range(ACCEPTS):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            try:
                self._accepted(sock)
            except Exception:
                _log.exception("%s: unexpected error with an accepted socket", self._pump.name)
                _hang_up(sock)
            del sock

    def _pause(self, error: OSError) -> None:
        """Out of descriptors or memory: the socket stays readable, so looking again at once would spin."""
        self._unwatch()
        self._pump.call_later(ACCEPT_PAUSE, self.watch)
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + ACCEPT_LOG
            _log.warning("%s: accepting pauses: %s", self._pump.name, error.strerror)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._pump.watch(self._sock.fileno(), 0, self.ready)

    def dispose(self) -> None:
        """Stops listening and closes; idempotent."""
        self._unwatch()
        self._sock.close()
        self._pump.forget(self)


def _finish_turns() -> None:
    """Never takes a core from who woke this thread: when that is another pump, it finishes its turn first.

    Else, on a machine with fewer cores than busy processes, each message to the next process costs two switches:
    an echo through three relays takes a tenth less time so. Only this thread, and the threads that it starts: a
    browser that the main thread starts must not inherit it.
    """
    if not hasattr(os, "SCHED_BATCH"):
        return  # not Linux
    try:
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody has chosen for us
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:
        pass  # some containers forbid it, and some C libraries never do it


def _send_at_once(sock: socket.socket) -> bool:
    """Whether it is TCP. (To ask for its family would make an `Enum` of a number, in Python.)"""
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        return False  # or reset already (macOS says so here): reading reports it, and nothing can be lost by now
    if _HAS_NOTSENT_LOWAT:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT)
        except OSError:
            pass  # a kernel or sandbox that only knows the name: a stalled peer is noticed later
    return True


def _ask_when_silent(sock: socket.socket) -> None:
    """Lets the kernel ask a silent peer whether it is there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE_OPTIONS:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _hang_up(sock: socket.socket) -> None:
    """Ends a connection but leaves the descriptor: a plug may own it by now, else the last reference closes it."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # ended already
