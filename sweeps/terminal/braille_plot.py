"""A plot of a front as text, in Braille characters (Unicode block 2800) of two by four dots."""

import math
from collections.abc import Sequence

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot in a Braille character, by row and column."""


def sketch(
    cloud: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
    *,
    width: int = 48,
    height: int = 8,
    labels: tuple[str, str] = ("", ""),
) -> list[str]:
    """Draw points (x, y) as lines of text: the cloud as dots, the front as `●`, with the limits of both axes.

    The axes extend slightly beyond the front on each side, so that distant points do not flatten it.

    Args:
        cloud: all points; those that are not finite, or far from the front, are left out.
        front: the points to draw on top.
        width: the drawing's width in characters, without the axis.
        height: the drawing's height in lines, without the axis.
        labels: the names of the axes.
    """
    points = [point for point in (*cloud, *front) if all(map(math.isfinite, point))]
    ends = [point for point in front if all(map(math.isfinite, point))] or points
    if not ends:
        return ["no point yet"]
    (left, right), (low, high) = (_range([p[axis] for p in ends], [p[axis] for p in points]) for axis in (0, 1))
    points = [(x, y) for x, y in points if left <= x <= right and low <= y <= high]
    letters = [[0] * width for _ in range(height)]
    marks: set[tuple[int, int]] = set()
    for x, y in points:
        column = round((x - left) / (right - left) * (2 * width - 1))
        row = round((high - y) / (high - low) * (4 * height - 1))
        letters[row // 4][column // 2] |= _DOTS[row % 4][column % 2]
    for x, y in front:
        if math.isfinite(x) and math.isfinite(y):
            column = round((x - left) / (right - left) * (2 * width - 1)) // 2
            marks.add((round((high - y) / (high - low) * (4 * height - 1)) // 4, column))
    marks_of_y = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    margin = max(map(len, marks_of_y))
    lines = []
    for row, line in enumerate(letters):
        drawn = "".join(
            "●" if (row, column) in marks else chr(0x2800 + dots) if dots else " " for column, dots in enumerate(line)
        )
        lines.append(f"{marks_of_y[row]:>{margin}} ┤{drawn.rstrip()}")
    start, end = f"{left:.4g}", f"{right:.4g}"
    lines.append(f"{'':>{margin}} └{'─' * width}")
    lines.append(f"{'':>{margin}}  {start}{labels[0].center(width - len(start) - len(end))}{end}")
    return [f"{'':>{margin}} {labels[1]}", *lines] if labels[1] else lines


def _range(front: Sequence[float], everything: Sequence[float]) -> tuple[float, float]:
    low, high = min(front), max(front)
    room = 0.25 * (high - low) if high > low else 0.25 * abs(low) or 1.0
    # The axes end at the outermost point, unless that leaves no width.
    first, last = max(low - room, min(everything)), min(high + room, max(everything))
    return (first, last) if last > first else (low - room, high + room)
