"""Frames: however the bytes are cut, the same bodies come out, and no length beyond the limit is waited for."""

import pytest

from common.errors import TooLarge
from common.wire.frames import LENGTH_SIZE, FrameReader, encode_frame
from tests.helpers import feed_three_ways, refused_three_ways


def test_frames_come_out_however_they_are_cut() -> None:
    bodies = [b"one", b"", b"x" * 100]
    data = b"".join(map(encode_frame, bodies))
    feed_three_ways(lambda: FrameReader(100).feed, data, bodies, trailing=encode_frame(b"more")[:-1])


def test_a_length_beyond_the_limit_is_refused_before_its_bytes_come() -> None:
    refused_three_ways(lambda: FrameReader(100).feed, (101).to_bytes(LENGTH_SIZE, "big"), TooLarge)
    with pytest.raises(TooLarge):
        FrameReader(100).feed(encode_frame(b"fine") + b"\xff" * LENGTH_SIZE)
