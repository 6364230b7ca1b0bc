# SPDX-License-Identifier: MIT
"""A plot of points and the straight line through them, as SVG text."""

import statistics
from collections.abc import Sequence

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 360, 64, 40, 20, 52
_COLOUR, _GREY = "#1f6feb", "#8b949e"


def line_fit(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Give slope and height at 0 of the line with the least squares."""
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)
    return slope, y_mean - slope * x_mean


def scatter_svg(title: str, x_title: str, y_title: str, xs: Sequence[float], rounds: Sequence[Sequence[float]]) -> str:
    """Draw for each x the range of its rounds and their median, and the line through the medians."""
    medians = [statistics.median(ys) for ys in rounds]
    slope, height = line_fit(xs, medians)
    x_end, y_end = max(xs) + 0.5, max(max(ys) for ys in rounds) * 1.1

    def x_at(x: float) -> str:
        return f"{_LEFT + x / x_end * (_WIDTH - _LEFT - _RIGHT):.1f}"

    def y_at(y: float) -> str:
        return f"{_HEIGHT - _BOTTOM - y / y_end * (_HEIGHT - _TOP - _BOTTOM):.1f}"

    def text(x: str, y: str, words: str, anchor: str = "middle") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'

    def line(x: float, y: float, to_x: float, to_y: float, style: str) -> str:
        return f'<line x1="{x_at(x)}" y1="{y_at(y)}" x2="{x_at(to_x)}" y2="{y_at(to_y)}" {style}/>'

    steps = [y_end * idx / 5 for idx in range(6)]
    grid = [line(0, y, x_end, y, f'stroke="{_GREY}" stroke-opacity="0.3"') for y in steps]
    labels = [text(str(_LEFT - 8), y_at(y), f"{y:.1f}", "end") for y in steps]
    labels += [text(x_at(x), str(_HEIGHT - _BOTTOM + 18), f"{x:g}") for x in xs]
    spread = [
        line(x, min(ys), x, max(ys), f'stroke="{_COLOUR}" stroke-opacity="0.5"')
        for x, ys in zip(xs, rounds, strict=True)
    ]
    dots = [f'<circle cx="{x_at(x)}" cy="{y_at(y)}" r="4" fill="{_COLOUR}"/>' for x, y in zip(xs, medians, strict=True)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}"'
            f' font-family="sans-serif" font-size="12" fill="{_GREY}">',
            text(str(_WIDTH // 2), "20", title),
            *grid,
            *labels,
            text(str(_WIDTH // 2), str(_HEIGHT - 12), x_title),
            f'<text transform="translate(16 {_HEIGHT // 2}) rotate(-90)" text-anchor="middle">{y_title}</text>',
            line(0, height, x_end, height + slope * x_end, f'stroke="{_COLOUR}" stroke-dasharray="4"'),
            *spread,
            *dots,
            "</svg>\n",
        ]
    )
