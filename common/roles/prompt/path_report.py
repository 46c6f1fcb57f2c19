"""`path`: the circuit of a real request, what each hop knows, and what its cells looked like there.

The path is that of the circuit's own state, the sizes are those of the layers that the client made and opened
(`Trace`). What a hop reads follows from its place: only the last opens a layer with messages inside.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.circuit.trace import Trace, TracedCell
from common.errors import OnionError, Refused
from common.roles.client.client import Client
from common.roles.client.client_circuit import ClientCircuit
from common.roles.client.views import SUITE_NAMES
from common.roles.prompt.web import ISOLATION, PageError, complete_url, fetch

LOOKED_UP = "example.org"  # asked for when nothing is: any name will do, also one that is not found
LOOK_UP_TIMEOUT = 15.0  # seconds
_MOST_CELLS = 12  # lines of the table; the rest is counted


@dataclass(frozen=True, slots=True)
class HopView:
    """What one hop knows: who is before and after it, and what it can read."""

    nickname: str
    address: str
    identity: str
    before: str
    after: str
    reads: str


@dataclass(frozen=True, slots=True)
class PathReport:
    """One traced request; `outcome` is how it ended, in words."""

    circuit: int
    suite: str
    request: str
    target: str
    outcome: str
    hops: tuple[HopView, ...]
    cells: tuple[TracedCell, ...]
    more_cells: int

    def to_json(self) -> dict[str, Any]:
        """For teachers' own tools: as the fields, with the size of the cell on each link added."""
        fields = asdict(self)
        for shown, cell in zip(fields["cells"], self.cells, strict=True):
            shown["links"] = list(cell.cells)
            shown["message_bytes"] = cell.message_bytes
        return fields


def trace_request(client: Client, what: str = "", tell: Callable[[str], None] = lambda _text: None) -> PathReport:
    """Fetches a page, or looks a name up where `what` is empty, and reports; raises `OnionError` with a sentence.

    It uses the circuit of the prompt's `web`, or the next one if that has none.
    """
    trace = Trace()
    if what:
        url, outcome = _fetch(client, complete_url(what), trace, tell)
        parts = urlsplit(url)
        target = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        request, secure = f"GET {url}", parts.scheme == "https"
    else:
        target, request, secure = "its resolver", f"look up {LOOKED_UP}", False
        tell(f"looking {LOOKED_UP} up at the exit")
        outcome = _look_up(client, trace)
    circuit = trace.owner
    if not isinstance(circuit, ClientCircuit):
        raise OnionError(f"no circuit could carry the request: {outcome}")
    circuit.untrace()
    return PathReport(
        circuit.number,
        SUITE_NAMES[circuit.suite],
        request,
        target,
        outcome,
        _hops(circuit, target, request, secure),
        tuple(trace.cells),
        trace.more,
    )


def _fetch(client: Client, url: str, trace: Trace, tell: Callable[[str], None]) -> tuple[str, str]:
    """Where it ended, after redirections, and how."""
    try:
        page = fetch(client, url, tell=tell, trace=trace)
    except PageError as error:
        return url, str(error)
    return page.url, f"{page.status} {page.reason}, {page.size:,} bytes" + ", cut there" * page.cut


def _look_up(client: Client, trace: Trace) -> str:
    try:
        found = client.resolve(LOOKED_UP, ISOLATION, LOOK_UP_TIMEOUT, trace)
    except Refused as error:
        return str(error)
    return ", ".join(map(str, found))


def _hops(circuit: ClientCircuit, target: str, request: str, secure: bool) -> tuple[HopView, ...]:
    relays = [entry.descriptor for entry in circuit.path]
    last = len(relays) - 1
    hops = []
    for at, relay in enumerate(relays):
        if at < last:
            reads = "nothing: under its own layer is another one"
        elif secure:
            reads = f"the target {target}, and how much TLS goes there; not what is inside"
        else:
            reads = f"the whole request ({request}) and the answer: nothing else protects them"
        hops.append(
            HopView(
                nickname=relay.nickname,
                address=str(relay.address),
                identity=relay.identity.hex(),
                before=relays[at - 1].nickname if at else "you: your address",
                after=relays[at + 1].nickname if at < last else target,
                reads=reads,
            )
        )
    return tuple(hops)


# ---- the drawing


def draw(console: Console, report: PathReport) -> None:
    """The circuit from you to the target, then its cells."""
    count = len(report.hops)
    console.print(
        f"[bold]circuit {report.circuit}[/] · {count} hop{'s' * (count != 1)} · suite {report.suite} · "
        f"{escape(report.request)}\n{escape(report.outcome)}\n",
        highlight=False,
        soft_wrap=True,
    )
    out, back = (_largest(report.cells, way) for way in (True, False))
    console.print("[bold]you[/]  have a key with every hop; you make and open all layers", highlight=False)
    for at, hop in enumerate(report.hops):
        console.print(_link(at, out, back), highlight=False, soft_wrap=True)
        name = f"[bold]{escape(hop.nickname)}[/]  {escape(hop.address)}"
        console.print(name + ("  (exit)" if at == count - 1 else ""), highlight=False)
        around = f"before {hop.before} · after {hop.after}"
        console.print(f" ┊ {escape(around)}", highlight=False, soft_wrap=True)
        console.print(f" ┊ reads {escape(hop.reads)}", highlight=False, soft_wrap=True)
    ways = [f"{word} {cell.message_bytes:,} bytes" for word, cell in (("▼", out), ("▲", back)) if cell]
    console.print(f" │ no layer left: messages of {', '.join(ways)}" if ways else " │", highlight=False)
    console.print(f"[bold]{escape(report.target)}[/]  sees {escape(report.hops[-1].nickname)}, not you\n")
    _draw_cells(console, report)


def _largest(cells: tuple[TracedCell, ...], out: bool) -> TracedCell | None:
    return max((cell for cell in cells if cell.out is out), key=lambda cell: cell.layers[0], default=None)


def _link(at: int, out: TracedCell | None, back: TracedCell | None) -> str:
    parts = [
        f"{arrow} layer {cell.layers[at]:,} in a cell of {cell.cells[at]:,}"
        for arrow, cell in (("▼", out), ("▲", back))
        if cell is not None
    ]
    return " │ " + " · ".join(parts)


def _draw_cells(console: Console, report: PathReport) -> None:
    table = Table(box=None, header_style="bold", title="cells of the request", title_justify="left")
    table.add_column("")
    table.add_column("messages", no_wrap=True)
    for hop in report.hops:
        table.add_column(f"layer at {hop.nickname}", justify="right")
    table.add_column("messages at exit", justify="right")
    for cell in report.cells[:_MOST_CELLS]:
        names = ", ".join(f"{message.command} {message.data:,}" for message in cell.messages)
        sizes = [f"{size:,}" for size in (*cell.layers, cell.message_bytes)]
        table.add_row("▼" if cell.out else "▲", names, *sizes)
    console.print(table)
    left = len(report.cells) - _MOST_CELLS + report.more_cells
    if left > 0:
        console.print(f"… {left:,} more cells")
    console.print("▼ from you, ▲ to you; sizes are bytes; each message has 5 bytes of header", style="dim")
