"""Carries packets between the hosts of a `WideArea`: `python -m tests.wide_area.forwarder NUMBER:FD:ADDRESS ...`.

Each FD is a TUN device. A packet leaves its host at the rate of that host's uplink, or is dropped when it would wait
longer than the queue is; it may then be lost; it reaches the other host a delay later. Commands come as lines of JSON
on standard input, and each is answered by a line with all counters; the end of input is the end.

Packets are carried one by one (no segmentation offload): 100,000 a second need about a core.
"""

import gc
import heapq
import json
import os
import random
import select
import socket
import sys
from contextlib import suppress
from time import monotonic

_LARGEST = 65_535
_BURST = 32  # packets read from one device before the others have a turn
_DESTINATION = slice(16, 20)  # in an IPv4 header


class Uplink:
    """One host's way out. Rates in Mbit/s (0: no limit), times in ms, loss in per cent of packets."""

    def __init__(self, device: int, address: bytes) -> None:
        self.device = device
        self.address = address
        self.settings = {"delay": 0.0, "rate": 0.0, "loss": 0.0, "queue": 200.0}
        self.packets = self.bytes = self.lost = self.dropped = 0
        self._free = 0.0  # when it has sent all that it has taken

    def fate(self, size: int, now: float) -> float | None:
        """When a packet has left, or None: it has not."""
        settings = self.settings
        begin = max(self._free, now)
        if settings["rate"]:
            if begin - now > settings["queue"] / 1_000:
                self.dropped += 1
                return None
            self._free = begin = begin + size * 8e-6 / settings["rate"]
        self.packets += 1
        self.bytes += size
        if settings["loss"] and random.random() * 100 < settings["loss"]:
            self.lost += 1
            return None
        return begin

    def counters(self) -> dict[str, int]:
        """What it has done so far."""
        return {"packets": self.packets, "bytes": self.bytes, "lost": self.lost, "dropped": self.dropped}


class Forwarder:
    """All uplinks, and the packets on their way."""

    def __init__(self, uplinks: dict[int, Uplink]) -> None:
        self._uplinks = uplinks
        self._by_device = {uplink.device: uplink for uplink in uplinks.values()}
        self._by_address = {uplink.address: uplink for uplink in uplinks.values()}
        self._flying: list[tuple[float, int, int, bytes]] = []  # due, number, device, packet
        self._number = 0
        self._input = b""

    def run(self) -> None:
        """Until the input ends."""
        poller = select.epoll()
        for device in [*self._by_device, 0]:
            poller.register(device, select.EPOLLIN)
        while True:
            now = monotonic()
            self._deliver(now)
            wait = max(0.0, self._flying[0][0] - monotonic()) if self._flying else None
            select.select([poller.fileno()], [], [], wait)  # epoll itself counts in milliseconds
            for device, _ in poller.poll(0):
                if device:
                    self._take(self._by_device[device])
                elif not self._command():
                    return

    def _deliver(self, now: float) -> None:
        flying = self._flying
        while flying and flying[0][0] <= now:
            _, _, device, packet = heapq.heappop(flying)
            with suppress(OSError):  # a full device loses it
                os.write(device, packet)

    def _take(self, uplink: Uplink) -> None:
        for _ in range(_BURST):
            try:
                packet = os.read(uplink.device, _LARGEST)
            except BlockingIOError:
                return
            to = self._by_address.get(packet[_DESTINATION])
            left = uplink.fate(len(packet), monotonic()) if to is not None else None
            if to is None or left is None:
                continue
            due = left + (uplink.settings["delay"] + to.settings["delay"]) / 2_000
            self._number += 1
            heapq.heappush(self._flying, (due, self._number, to.device, packet))

    def _command(self) -> bool:
        data = os.read(0, 65_536)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            for number, settings in json.loads(line).items():
                self._uplinks[int(number)].settings.update(settings)
            counters = {number: uplink.counters() for number, uplink in self._uplinks.items()}
            print(json.dumps(counters), flush=True)
        return bool(data)


def main() -> None:
    """See the module."""
    uplinks = {}
    for word in sys.argv[1:]:
        number, device, address = word.split(":")
        uplinks[int(number)] = Uplink(int(device), socket.inet_aton(address))
        os.set_blocking(int(device), False)
    gc.disable()
    with suppress(OSError):  # it must not wait for those whose time it measures
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    Forwarder(uplinks).run()


if __name__ == "__main__":
    main()
