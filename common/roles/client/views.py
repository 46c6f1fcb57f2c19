"""What a client tells about itself: frozen pictures of circuits and streams, as `Client.circuits()` gives them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from common.crypto.handshake import Suite
from common.directory.document import DirectoryDocument
from common.roles.client.client_circuit import ClientCircuit, ClientStream

if TYPE_CHECKING:
    from common.roles.client.client import Client

SUITE_NAMES = {Suite.FERNET: "fernet", Suite.AES_GCM: "aes-gcm"}


@dataclass(frozen=True, slots=True)
class StreamView:
    """A stream; `bytes_in` came from the target. The target stays out of `repr`."""

    number: int
    state: str  # opening, open
    bytes_in: int
    bytes_out: int
    target: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CircuitView:
    """A circuit; `path` holds nicknames, first hop first; ages are seconds."""

    number: int
    state: str  # spare, in use, retired
    path: tuple[str, ...]
    suite: str
    age: float
    build_seconds: float
    bytes_in: int
    bytes_out: int
    streams: tuple[StreamView, ...]


def circuit_views(in_use: Iterable[ClientCircuit], retired: Iterable[ClientCircuit]) -> tuple[CircuitView, ...]:
    """All of them by number."""
    views = [_circuit(circuit, "spare" if circuit.isolation is None else "in use") for circuit in in_use]
    views += [_circuit(circuit, "retired") for circuit in retired]
    return tuple(sorted(views, key=lambda view: view.number))


def _circuit(circuit: ClientCircuit, state: str) -> CircuitView:
    with circuit.lock:
        streams = list(circuit.attachments.values())
        sent, received = circuit.endpoint.bytes_sent, circuit.endpoint.bytes_received
    return CircuitView(
        number=circuit.number,
        state=state,
        path=tuple(entry.descriptor.nickname for entry in circuit.path),
        suite=SUITE_NAMES[circuit.suite],
        age=monotonic() - circuit.born,
        build_seconds=circuit.build_seconds,
        bytes_in=received,
        bytes_out=sent,
        streams=tuple(_stream(stream) for stream in streams if isinstance(stream, ClientStream)),
    )


def _stream(stream: ClientStream) -> StreamView:
    opening = stream.opening
    return StreamView(
        number=stream.stream_id,
        state="open" if stream.open else "opening",
        bytes_in=stream.bytes_in,
        bytes_out=stream.bytes_out,
        target=f"{opening.host}:{opening.port}",
    )


def status(client: "Client", *, targets: bool = False) -> dict[str, Any]:
    """All that `status` shows, ready for JSON: start, guards, circuits, streams, directory, build times, reasons.

    Where streams go is left out unless `targets` says otherwise.
    """
    circuits = [asdict(view) for view in client.circuits()]
    if not targets:
        for stream in (stream for circuit in circuits for stream in circuit["streams"]):
            del stream["target"]
    times = sorted(client.pool.build_times)
    percent, step = client.started_to
    return {
        "start": {"percent": percent, "step": step},
        "directory": _directory(client.directory.document),
        "guards": _guards(client),
        "circuits": circuits,
        "links": len(client.links.all),
        "built": len(times),
        "build_seconds_median": times[len(times) // 2] if times else None,
        "build_seconds_most": times[-1] if times else None,
        "close_reasons": client.pool.close_reasons,
    }


def _guards(client: "Client") -> list[dict[str, Any]]:
    """The entry guards, the first one first: by nickname where listed, else by the beginning of the identity."""
    names = {entry.descriptor.identity: entry.descriptor.nickname for entry in client.relays()}
    return [
        {
            "relay": names.get(guard.identity, guard.identity.hex()[:8]),
            "listed": guard.identity in names,
            "until": guard.until,
            "failures": guard.failures,
        }
        for guard in client.pool.guards.guards
    ]


def _directory(document: DirectoryDocument | None) -> dict[str, Any] | None:
    if document is None:
        return None
    now = time()
    return {
        "network": document.network,
        "relays": len(document.relays),
        "serial": document.serial,
        "age": now - document.valid_after,
        "valid_for": document.valid_until - now,
    }
