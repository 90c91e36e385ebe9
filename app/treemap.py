"""Rectangles of given areas, as square as can be: Bruls, Huizing and van Wijk, "Squarified treemaps", 2000."""

from collections.abc import Sequence
from typing import NamedTuple


class Rectangle(NamedTuple):
    """In the units of the whole: from its left upper corner, width and height."""

    left: float
    top: float
    width: float
    height: float


def squarified(sizes: Sequence[float], whole: Rectangle) -> list[Rectangle]:
    """One rectangle for each of `sizes`, all above zero and descending, that fill the whole.

    ```python
    >>> squarified([2, 1, 1], Rectangle(0, 0, 4, 2))
    [Rectangle(left=0, top=0, width=2.0, height=2.0), Rectangle(left=2.0, top=0, width=1.0, height=2.0),
     Rectangle(left=3.0, top=0, width=1.0, height=2.0)]

    ```
    """
    placed: list[Rectangle] = []
    rest, scale = whole, whole.width * whole.height / sum(sizes) if sizes else 0
    areas = [size * scale for size in sizes]
    while areas:
        side = min(rest.width, rest.height)
        row = 1
        while row < len(areas) and worst(areas[: row + 1], side) <= worst(areas[:row], side):
            row += 1
        strip, rest = laid(areas[:row], rest)
        placed += strip
        areas = areas[row:]
    return placed


def worst(areas: Sequence[float], side: float) -> float:
    """The most oblong of `areas` in a strip along `side`: its longer edge by its shorter one."""
    thickness = sum(areas) / side
    return max(max(thickness**2 / area, area / thickness**2) for area in areas)


def laid(areas: Sequence[float], room: Rectangle) -> tuple[list[Rectangle], Rectangle]:
    """`areas` in a strip along the shorter side of a room, and the room that is left."""
    left, top, width, height = room
    thickness = sum(areas) / min(width, height)
    strip = []
    for area in areas:
        length = area / thickness
        if width >= height:
            strip.append(Rectangle(left, top, thickness, length))
            top += length
        else:
            strip.append(Rectangle(left, top, length, thickness))
            left += length
    if width >= height:
        return strip, Rectangle(room.left + thickness, room.top, max(width - thickness, 0), height)
    return strip, Rectangle(room.left, room.top + thickness, width, max(height - thickness, 0))
