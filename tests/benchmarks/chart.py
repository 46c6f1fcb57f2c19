"""The bar chart as SVG text: a panel per measure, a bar per contender, a line from the lowest to the highest round."""

from xml.sax.saxutils import escape

from tests.benchmarks.goals import MEASURES, SUITES, TOR_DEFAULT, YARDSTICK
from tests.benchmarks.report import number
from tests.benchmarks.results import Results, Spread

PANELS = (
    "download_1",
    "download_16_isolated",
    "upload_1",
    "cpu",
    "echo_median",
    "first_byte_median",
    "prompt_shared_p95",
    "shares_shared",
    "stream_rate",
    "circuit_rate",
)
COLOURS = {SUITES[0]: "#2f6fb3", SUITES[1]: "#2a9d74", YARDSTICK: "#8a8f98", TOR_DEFAULT: "#c3c7cd"}
_WIDTH, _PANEL_WIDTH, _COLUMNS = 860, 420, 2
_LABEL, _BAR_ROOM, _BAR, _HEAD, _GAP = 95, 250, 16, 26, 22
_MARGIN = 10


def draw(results: Results) -> str:
    """The picture; panels and contenders without samples are left out."""
    panels = []
    for name in PANELS:
        bars = {who: found for who in COLOURS if (found := results.spread(who, name)) is not None}
        if bars:
            panels.append((name, bars))
    rows = [panels[at : at + _COLUMNS] for at in range(0, len(panels), _COLUMNS)]
    parts: list[str] = []
    top = _MARGIN
    for row in rows:
        for column, (name, bars) in enumerate(row):
            parts += _panel(name, bars, _MARGIN + column * _PANEL_WIDTH, top)
        top += _HEAD + _GAP + max(len(bars) for _, bars in row) * (_BAR + 4)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}" '
        'font-family="sans-serif" font-size="12">'
    )
    paper = f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>'
    return "\n".join([head, paper, *parts, "</svg>", ""])


def _panel(name: str, bars: dict[str, Spread], left: int, top: int) -> list[str]:
    measure = MEASURES[name]
    scale = _BAR_ROOM / max(found.highest for found in bars.values())
    title = f"{measure.title}, {measure.unit} ({measure.better} is better)"
    parts = [f'<text x="{left}" y="{top + 14}" font-weight="bold" fill="#222222">{escape(title)}</text>']
    for line, (who, found) in enumerate(bars.items()):
        y = top + _HEAD + line * (_BAR + 4)
        start, middle = left + _LABEL, y + _BAR / 2
        low, high = (start + value * scale for value in (found.lowest, found.highest))
        width = max(1.0, found.median * scale)
        parts += [
            f'<text x="{start - 6}" y="{middle + 4:.1f}" text-anchor="end" fill="#222222">{escape(who)}</text>',
            f'<rect x="{start}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{COLOURS[who]}"/>',
            f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="#222222" stroke-width="1.5"/>',
            f'<text x="{max(high, start + width) + 6:.1f}" y="{middle + 4:.1f}" fill="#222222">'
            f"{number(found.median)}</text>",
        ]
    return parts
