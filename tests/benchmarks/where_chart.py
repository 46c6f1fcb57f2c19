"""Where the time goes as a picture: a bar for each process of the circuit, cut into its pieces. Nothing here waits."""

from xml.sax.saxutils import escape

from tests.benchmarks.report import number
from tests.benchmarks.where_report import Found, pieces

_COLOURS = (
    "#2f6fb3",
    "#2a9d74",
    "#e0a030",
    "#8a8f98",
    "#c96a5b",
)  # as the columns of `pieces`, the last is the rest
_LABEL, _ROOM, _BAR, _GAP, _MARGIN = 130, 560, 16, 4, 10
_WIDTH, _LEGEND = 770, 24


def draw(found: Found) -> str:
    """CPU seconds per GB of a download; the sums of each suite are left to the table."""
    head, *rows = pieces(found)
    rows = [row for row in rows if not row[0].startswith("*")]
    kinds = head[1 : 1 + len(_COLOURS)]
    bars = [
        (row[0], [max(0.0, float(text.replace(",", ""))) for text in row[1 : 1 + len(_COLOURS)]]) for row in rows
    ]
    scale = _ROOM / max((sum(parts) for _, parts in bars), default=1.0)
    height = 2 * _MARGIN + _LEGEND + len(bars) * (_BAR + _GAP)
    drawn = [_legend(number_, kind) for number_, kind in enumerate(kinds)]
    for line, (label, parts) in enumerate(bars):
        drawn += _bar(label, parts, _MARGIN + _LEGEND + line * (_BAR + _GAP), scale)
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">'
    )
    paper = f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([begin, paper, *drawn, "</svg>", ""])


def _legend(place: int, kind: str) -> str:
    x = _LABEL + 110 * place
    return (
        f'<rect x="{x}" y="{_MARGIN}" width="12" height="12" fill="{_COLOURS[place]}"/>'
        f'<text x="{x + 17}" y="{_MARGIN + 11}" fill="#222222">{escape(kind)}</text>'
    )


def _bar(label: str, parts: list[float], top: int, scale: float) -> list[str]:
    middle = top + _BAR / 2 + 4
    drawn = [f'<text x="{_LABEL - 6}" y="{middle}" text-anchor="end" fill="#222222">{escape(label)}</text>']
    x = float(_LABEL)
    for colour, part in zip(_COLOURS, parts, strict=True):
        drawn.append(f'<rect x="{x:.1f}" y="{top}" width="{part * scale:.1f}" height="{_BAR}" fill="{colour}"/>')
        x += part * scale
    drawn.append(f'<text x="{x + 6:.1f}" y="{middle}" fill="#222222">{number(sum(parts))} s/GB</text>')
    return drawn
