"""Any bytes, cut anywhere, at the proxy port: only steps come out, and little is held."""

from hypothesis import given
from hypothesis import strategies as st

from common.wire.http_connect import MAX_HEAD, HttpHandshake
from common.wire.socks import Credentials, Fail, Handshake, Request, Send, Step

CREDENTIALS: st.SearchStrategy[Credentials | None] = st.sampled_from([None, ("alice", "sesame")])
SOCKS_STARTS = st.sampled_from(
    [b"", b"\x04", b"\x05", b"\x05\x01\x00", b"\x05\x01\x02", b"\x05\x01\x00\x05\x01\x00\x03", b"\x04\x01\x00\x50\x00\x00\x00\x01"]
)
HTTP_STARTS = st.sampled_from([b"", b"CONNECT ", b"CONNECT a:1 HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nProxy-Authorization: Basic "])
MOST_OF_SOCKS = 513  # an unfinished user and password


def run(handshake: Handshake | HttpHandshake, chunks: list[bytes], most: int) -> list[Step]:
    steps: list[Step] = []
    for chunk in chunks:
        steps += handshake.receive(chunk)
        assert len(handshake._held) < most
        if steps and isinstance(steps[-1], Request | Fail):
            break
    assert all(isinstance(step, Send) for step in steps[:-1])
    return steps


def without_rest(steps: list[Step]) -> list[Step]:
    return [Request(s.command, s.host, s.port, s.isolation, s.literal_ip, b"") if isinstance(s, Request) else s for s in steps]


@given(start=SOCKS_STARTS, chunks=st.lists(st.binary(max_size=600), max_size=8), required=CREDENTIALS)
def test_socks_any_bytes(start: bytes, chunks: list[bytes], required: Credentials | None) -> None:
    steps = run(Handshake(required), [start, *chunks], MOST_OF_SOCKS)
    whole = start + b"".join(chunks)
    single = run(Handshake(required), [whole[at : at + 1] for at in range(len(whole))], MOST_OF_SOCKS)
    assert without_rest(steps) == without_rest(single)


@given(start=HTTP_STARTS, chunks=st.lists(st.binary(max_size=300) | st.just(b"\r\n\r\n"), max_size=6), required=CREDENTIALS)
def test_http_any_bytes(start: bytes, chunks: list[bytes], required: Credentials | None) -> None:
    steps = run(HttpHandshake(required), [start, *chunks], MAX_HEAD)
    whole = start + b"".join(chunks)
    single = run(HttpHandshake(required), [whole[at : at + 1] for at in range(len(whole))], MAX_HEAD)
    assert without_rest(steps) == without_rest(single)


@given(st.text(alphabet="CONET abc:/[]0123456789.HTTP1\r\n\t-", max_size=200))
def test_http_almost_right(text: str) -> None:
    run(HttpHandshake(), [text.encode() + b"\r\n\r\n"], MAX_HEAD)
