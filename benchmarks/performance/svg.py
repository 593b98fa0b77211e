"""Two kinds of picture as SVG: bars with their spread, and lines. No library: both are short."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

INK, PALE = "#1f2933", "#d9dee4"
COLOURS = ("#0b6e4f", "#c8553d", "#2f6690", "#b8860b", "#6d597a", "#57606a", "#9aa5b1")
FONT = 'font-family="system-ui, sans-serif" font-size="12"'
BAR, GAP, LEFT, RIGHT, TOP = 18, 8, 190, 150, 46
WIDTH = 760


@dataclass(frozen=True)
class Bar:
    """`low` and `high` are the smallest and largest value that `value` is the median of."""

    label: str
    value: float
    low: float
    high: float


def bars(title: str, groups: Mapping[str, Sequence[Bar]], *, unit: str) -> str:
    """Horizontal bars in groups, each with its value and a whisker."""
    most = max(bar.high for group in groups.values() for bar in group)
    scale = (WIDTH - LEFT - RIGHT) / most
    parts, y = [], TOP
    for name, group in groups.items():
        parts.append(_text(12, y + 12, name, weight="600"))
        y += 22
        for number, bar in enumerate(group):
            middle = y + BAR / 2
            parts.append(_text(LEFT - 8, middle + 4, bar.label, anchor="end"))
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{bar.value * scale:.1f}" height="{BAR}" '
                f'fill="{COLOURS[number % len(COLOURS)]}"/>'
            )
            low, high = LEFT + bar.low * scale, LEFT + bar.high * scale
            parts.append(f'<path d="M{low:.1f} {middle}H{high:.1f}" stroke="{INK}" stroke-width="1.5"/>')
            parts.append(_text(max(high, LEFT + bar.value * scale) + 8, middle + 4, f"{_shown(bar.value)} {unit}"))
            y += BAR + GAP
        y += 10
    return _document(title, parts, height=y)


def lines(
    title: str, series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str, log_x: bool = True
) -> str:
    """One line for each series, y from zero."""
    height, bottom, left, right = 330, 280, 60, 210
    xs = sorted({x for points in series.values() for x, _ in points})
    step, top = _ticks(max(y for points in series.values() for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        low, high, at = (math.log10(each) if log_x else each for each in (xs[0], xs[-1], x))
        across = (at - low) / (high - low) if high > low else 0.5
        return left + across * (WIDTH - left - right), bottom - y / top * (bottom - TOP)

    parts = []
    for number in range(round(top / step) + 1):
        value = number * step
        y = place(xs[0], value)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{WIDTH - right}" stroke="{PALE}"/>')
        parts.append(_text(left - 8, y + 4, _shown(value), anchor="end"))
    for x in xs if log_x else (xs[0], xs[-1]):
        parts.append(_text(place(x, 0)[0], bottom + 18, f"{x:,.0f}", anchor="middle"))
    parts.append(_text((left + WIDTH - right) / 2, bottom + 38, x_label, anchor="middle"))
    parts.append(_text(left, TOP - 8, y_label))
    for number, (name, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
            for x, y in (place(*point) for point in (points if len(points) < 20 else []))
        ]
        row = TOP + 14 + number * 20
        parts.append(f'<path d="M{WIDTH - right + 16} {row - 4}h18" stroke="{colour}" stroke-width="3"/>')
        parts.append(_text(WIDTH - right + 40, row, name))
    return _document(title, parts, height=height)


def _ticks(most: float) -> tuple[float, float]:
    """A round step of the axis, and where the axis ends: above the largest value."""
    rough = most / 4
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    return step, step * math.ceil(most * 1.05 / step)


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "400") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{INK}">'
        f"{escape(text)}</text>"
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.3g}"


def _document(title: str, parts: Sequence[str], *, height: float) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" {FONT} '
        'role="img">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>\n'
        f'<text x="12" y="22" font-size="15" font-weight="600" fill="{INK}">{escape(title)}</text>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"
