"""Many clients in one process and one thread: they greet, and ask for the list, again and again.

`python -m tests.benchmarks.simulated_clients GATEWAY KEY NETWORK COUNT`. One line on standard input is one
command, each answered by a line of JSON:
    unchanged SECONDS    each asks as soon as it is answered, with the digest of the newest document
    full SECONDS         the same without a digest, so that each answer is a whole document
    poll SECONDS         each asks every 7.5 s with the digest of the newest document, as real clients do
    count                how many relays are listed
    below RELAYS         the seconds until fewer relays are listed, looking ten times a second
It ends with its standard input.
"""

import heapq
import json
import secrets
import selectors
import sys
import time

from common.crypto.signing import Envelope
from common.directory.addresses import parse_address
from common.directory.document import MAX_ENVELOPE, digest
from common.net.tls import client_context
from common.ops.lifecycle import raise_file_limit
from common.roles.gateway_link import Document, Hello, List, Unchanged, decode, decompress, encode
from tests.benchmarks.gateway_peer import GatewayPeer

POLL = 7.5  # seconds: the mean of a real client's 5 to 10
WATCH = 0.1  # seconds between two looks
Report = dict[str, float]


class Clients:
    """All clients of this process; the first is also the one that looks at documents."""

    def __init__(self, gateway: tuple[str, int], key: bytes, network: str, count: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._peers: list[GatewayPeer] = []
        self._held = b""
        self._relays = 0
        self._size = 0
        context = client_context()
        for _ in range(count):
            peer = GatewayPeer(gateway, key, context)
            self._peers.append(peer)
            self._selector.register(peer.sock, selectors.EVENT_READ, peer)
            while not peer.shaken:
                self._selector.select()
                assert not peer.receive()
            peer.send(encode(Hello(1, network, "client")))
            self._wait(peer)

    def _wait(self, peer: GatewayPeer) -> bytes:
        while not (bodies := peer.receive()):
            self._selector.select()
        return bodies[0]

    def count(self) -> int:
        """How many relays the newest document lists."""
        self._peers[0].send(encode(List(self._held)))
        answer = decode(self._wait(self._peers[0]))
        if isinstance(answer, Document):
            envelope = decompress(answer.compressed)
            payload = Envelope.decode(envelope, MAX_ENVELOPE).payload
            self._held, self._size = digest(envelope), len(envelope)
            self._relays = payload.count(b'"running_since":')
        else:
            assert isinstance(answer, Unchanged)
        return self._relays

    def below(self, relays: int) -> float:
        """Seconds until fewer than `relays` are listed."""
        start = time.monotonic()
        while self.count() >= relays:
            time.sleep(WATCH)
        return time.monotonic() - start

    def ask(self, seconds: float, question: bytes, pause: float) -> Report:
        """All ask, each again `pause` seconds after its last question, or when it is answered if that is later."""
        start = time.monotonic()
        asked: dict[GatewayPeer, float] = {}
        due = [(start + pause * secrets.randbelow(1_000) / 1_000, number) for number in range(len(self._peers))]
        numbers = {peer: number for number, peer in enumerate(self._peers)}
        heapq.heapify(due)
        answers = size = 0
        longest = 0.0
        while (now := time.monotonic()) < start + seconds or asked:
            while due and due[0][0] <= now < start + seconds:
                peer = self._peers[heapq.heappop(due)[1]]
                asked[peer] = now
                peer.send(question)
            wait = min(0.5, max(0.0, due[0][0] - now)) if due else 0.5
            for key, _ in self._selector.select(wait):
                for body in key.data.receive():
                    now = time.monotonic()
                    begun = asked.pop(key.data)
                    answers, size, longest = answers + 1, size + len(body), max(longest, now - begun)
                    heapq.heappush(due, (begun + pause, numbers[key.data]))
        took = time.monotonic() - start
        return {"answers": answers, "a second": answers / took, "MB": size / 1e6, "longest": longest}

    def run(self, words: list[str]) -> Report:
        """One command."""
        match words:
            case ["count"]:
                return {"relays": self.count(), "size": self._size}
            case ["below", relays]:
                return {"seconds": self.below(int(relays))}
            case ["unchanged" | "poll", seconds]:
                self.count()
                return self.ask(float(seconds), encode(List(self._held)), POLL if words[0] == "poll" else 0.0)
            case ["full", seconds]:
                return self.ask(float(seconds), encode(List(b"")), 0.0)
        raise ValueError(words)


def main() -> None:
    gateway, key, network, count = sys.argv[1:]
    raise_file_limit()
    address = parse_address(gateway)
    clients = Clients((address.host, address.port), bytes.fromhex(key), network, int(count))
    print(json.dumps({"connected": int(count)}), flush=True)
    for line in sys.stdin:
        print(json.dumps(clients.run(line.split())), flush=True)


if __name__ == "__main__":
    main()
