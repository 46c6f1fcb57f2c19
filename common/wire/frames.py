"""Frames: 4 bytes of length, then that many bytes. Gateways and the login server speak in them."""

from common.errors import TooLarge

LENGTH_SIZE = 4


def encode_frame(body: bytes) -> bytes:
    """The frame of `body`."""
    return len(body).to_bytes(LENGTH_SIZE, "big") + body


class FrameReader:
    """Takes what arrived and gives the frames that are complete; holds at most one frame and one read."""

    __slots__ = ("_held", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies of the frames completed by `data`; `TooLarge` as soon as a length is beyond the limit."""
        held = self._held
        held += data
        bodies: list[bytes] = []
        at = 0
        while len(held) - at >= LENGTH_SIZE:
            size = int.from_bytes(held[at : at + LENGTH_SIZE], "big")
            if size > self._limit:
                raise TooLarge(f"a message of {size} bytes is larger than allowed here")
            end = at + LENGTH_SIZE + size
            if len(held) < end:
                break
            bodies.append(bytes(held[at + LENGTH_SIZE : end]))
            at = end
        del held[:at]
        return bodies
