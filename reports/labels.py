"""Places names beside points so that they cover neither points nor each other."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Box = tuple[float, float, float, float]
_PLACES = [(dx, dy, side) for dy in (0, 10, -10, 20, -20, 30, -30) for dx, side in ((9, "left"), (-9, "right"))]


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    spans: Sequence[tuple[float, float]],
    labels: Sequence[str],
    *,
    colours: Sequence[str],
) -> None:
    """Writes each name at the first free place near its point (x, y) with error bar (low, high); colours repeat."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # axes in constrained layout have their final size only now
    scale = figure.dpi / 72
    frame = axes.get_window_extent()
    pixels = axes.transData.transform(points)
    bars = [axes.transData.transform([(x, low), (x, high)]) for (x, _), (low, high) in zip(points, spans, strict=True)]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in pixels]
    taken += [(bar[0, 0] - 3, bar[0, 1], bar[1, 0] + 3, bar[1, 1]) for bar in bars]
    for i, (x, y) in enumerate(pixels):
        boxes = [_box((x + dx * scale, y + dy * scale), len(labels[i]), scale, side) for dx, dy, side in _PLACES]
        inside = [k for k, box in enumerate(boxes) if frame.x0 < box[0] and box[2] < frame.x1]
        best = next((k for k in inside if not _covered(boxes[k], taken)), inside[0] if inside else 0)
        taken.append(boxes[best])
        dx, dy, side = _PLACES[best]
        axes.annotate(
            labels[i],
            points[i],
            (dx, dy),
            textcoords="offset points",
            ha="left" if side == "left" else "right",
            va="center",
            fontsize=8.5,
            color=colours[i % len(colours)],
        )


def _box(anchor: tuple[float, float], letters: int, scale: float, side: str) -> Box:
    """Extent of a line of 8.5 point type, about 5.2 points per letter, in pixels."""
    x, y = anchor
    width, height = 5.2 * letters * scale, 10.0 * scale
    left = x if side == "left" else x - width
    return left, y - height / 2, left + width, y + height / 2


def _covered(box: Box, taken: Sequence[Box]) -> bool:
    return any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken)
