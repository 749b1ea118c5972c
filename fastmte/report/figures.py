"""Pictures of a partition: the paper's Figure 1 and the elbow of k-means."""

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmte.errors import InputError
from fastmte.partition import Cover, Partition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; the markers do it in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
_MARKERS = "os^DvPX*<>hp"
_DPI = 150
_MOST_NAMED, _MOST_IN_LEGEND = 120, 16  # what a page of this size holds
_GREY = "#555555"
_RADII = (9.0, 15.0, 24.0, 36.0, 52.0)  # points from a marker to its text
_NEAR = 15.0  # points; a text farther off is tied to its marker by a line
_ANGLES = np.deg2rad(np.arange(0, 360, 22.5))


class MissingPlotError(InputError):
    """Matplotlib is not installed."""


def colour(member: int) -> str:
    """Return a member's colour, as ``#RRGGBB``; it repeats after `COLOURS`."""
    return COLOURS[member % len(COLOURS)]


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points on their two principal axes, and the share of variance of each axis.

    Args:
        points: (L, D) float64.

    Returns:
        (L, 2) float64, each axis pointing to its farthest point, and (2,) float64. Axes that
        do not exist (one point, one feature) are zero.
    """
    centred = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    plane = np.zeros((len(points), 2))
    shares = np.zeros(2)
    n_axes = min(2, len(values))
    plane[:, :n_axes] = (left * values)[:, :n_axes]
    farthest = plane[np.abs(plane).argmax(axis=0), [0, 1]]
    total = (values**2).sum()
    if total > 0:
        shares[:n_axes] = values[:n_axes] ** 2 / total
    return plane * np.where(farthest < 0, -1.0, 1.0), shares


def figure1(partition: Partition, centroids: np.ndarray) -> bytes:
    """Return Figure 1 of the paper as PNG: the label centroids on their two principal axes.

    Each member has a colour and a marker of its own; up to 120 points are named, and up to 16
    members are in a legend.

    Args:
        partition: of L labels.
        centroids: (L, D) float64.

    Raises:
        MissingPlotError: matplotlib is not installed.
        InputError: there is not one centroid a label.
    """
    if len(centroids) != len(partition.tags):
        raise InputError(
            f"centroids must be one row for each of the {len(partition.tags)} labels, "
            f"got {len(centroids)}"
        )
    figure, axes = _new_figure(8.0, 6.2)
    plane, shares = principal_plane(np.asarray(centroids, np.float64))
    is_named = len(plane) <= _MOST_NAMED
    for member, part in enumerate(partition.parts()):
        at = plane[partition.member_of_label == member]
        axes.scatter(
            at[:, 0],
            at[:, 1],
            s=52 if is_named else 14,
            c=colour(member),
            marker=_MARKERS[member % len(_MARKERS)],
            edgecolors="white",
            linewidths=0.7 if is_named else 0.2,
            label=f"member {member}: {len(part)} tags",
            zorder=3,
        )
    axes.margins(0.12)
    for index, (name, share) in enumerate(zip(("first", "second"), shares, strict=True)):
        text = f"{name} principal axis ({100 * share:.0f} % of the variance)"
        (axes.set_xlabel, axes.set_ylabel)[index](text)
    axes.set_title(f"Label centroids, split by {partition.method}", loc="left")
    if partition.n_members <= _MOST_IN_LEGEND:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    if is_named:
        _name_points(figure, axes, plane, partition)
    return _png(figure)


def elbow(curve: dict[str, Any]) -> bytes:
    """Return the inertia of k-means over the number of members, with the elbow, as PNG.

    Args:
        curve: ``k`` and ``inertia``, lists of equal length, and ``elbow``, the chosen ``k``, or
            None where there is none.

    Raises:
        MissingPlotError: matplotlib is not installed.
    """
    figure, axes = _new_figure(8.0, 4.4)
    k, inertia = np.asarray(curve["k"]), np.asarray(curve["inertia"], np.float64)
    axes.plot(k, inertia, "-o", color=COLOURS[0], label="inertia of k-means", zorder=3)
    ends = [0, -1]
    axes.plot(k[ends], inertia[ends], "--", color=_GREY, linewidth=1, label="chord of its ends")
    chosen = curve["elbow"]
    if chosen is not None:
        here = float(inertia[k == chosen][0])
        on_chord = float(np.interp(chosen, k[ends], inertia[ends]))
        axes.vlines(chosen, here, on_chord, colors=COLOURS[1], linestyles=":", linewidth=1.5)
        label = f"elbow, farthest below the chord: {chosen}"
        axes.plot([chosen], [here], "D", markersize=10, color=COLOURS[1], label=label, zorder=4)
    axes.set_xticks(k)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("number of members")
    axes.set_ylabel("sum of squared distances")
    title = f"Elbow of k-means on the label centroids, up to {k[-1]} members"
    axes.set_title(title + (": none" if chosen is None else ""), loc="left")
    axes.legend(frameon=False)
    return _png(figure)


def pictures(
    partition: Partition | Cover | None, centroids: np.ndarray | None
) -> tuple[bytes | None, bytes | None, list[str]]:
    """Return Figure 1 and the elbow as far as they can be drawn, and why not otherwise."""
    if partition is None:
        return None, None, []
    if isinstance(partition, Cover):
        return None, None, ["Figure 1: a label that members share has no one colour"]
    curve = partition.details.get("elbow")
    try:
        return (
            None if centroids is None else figure1(partition, centroids),
            None if curve is None else elbow(curve),
            [],
        )
    except MissingPlotError as error:
        return None, None, [f"Figure 1 and the elbow: {error}"]


def _new_figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    """Return an empty figure, in inches, that needs no display and leaves no global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPlotError("pictures need matplotlib: pip install 'fastmte[plot]'") from None
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    # Without the name of the program, equal pictures are equal bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _name_points(figure: "Figure", axes: "Axes", plane: np.ndarray, partition: Partition) -> None:
    """Write each tag beside its point, where it covers the least of other tags and points.

    Greedy, the most crowded points first: O(L^2) overlaps of boxes.
    """
    figure.canvas.draw()  # fixes the layout, and with it where points are on the page
    figure.set_layout_engine("none")
    points = axes.transData.transform(plane)
    scale = _DPI / 72
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    marks = np.hstack([points - 5 * scale, points + 5 * scale])
    boxes = np.empty((0, 4))
    for index in np.argsort(distance.min(axis=1), kind="stable"):
        text = axes.annotate(
            partition.tags[index],
            plane[index],
            (0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8.5 if len(plane) <= 30 else 7,
            color=_darker(colour(int(partition.member_of_label[index]))),
            zorder=5,
        )
        extent = text.get_window_extent()
        size = np.array([extent.width + 6, extent.height + 2])
        taken = np.vstack([boxes, marks])
        offset, box, is_far = _best_place(points[index], size, taken, axes, scale)
        text.set_position(tuple(offset / scale))
        boxes = np.vstack([boxes, box])
        if is_far:  # only a line tells whose it is
            nearest = np.clip(points[index], box[:2] + 3, box[2:] - 3)
            end = axes.transData.inverted().transform(nearest)
            axes.plot(*np.stack([plane[index], end]).T, color="#bbbbbb", linewidth=0.6, zorder=2)


def _best_place(
    point: np.ndarray, size: np.ndarray, taken: np.ndarray, axes: "Axes", scale: float
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return offset and box (x0, y0, x1, y1) of a text beside a point, and whether it is far.

    All in pixels.
    """
    best: tuple[float, np.ndarray, np.ndarray, bool] | None = None
    frame = axes.bbox.extents
    for radius in _RADII:
        for angle in _ANGLES:
            direction = np.array([np.cos(angle), np.sin(angle)])
            # A wide text has to be farther off on the left and right than above.
            offset = direction * (radius * scale + np.abs(direction) @ size / 2 - size[1] / 2)
            box = np.concatenate([point + offset - size / 2, point + offset + size / 2])
            outside = (
                np.maximum(frame[:2] - box[:2], 0).sum() + np.maximum(box[2:] - frame[2:], 0).sum()
            )
            cost = _overlap(box, taken) + 50 * outside + 2 * radius * scale
            if best is None or cost < best[0]:
                best = (cost, offset, box, radius > _NEAR)
    assert best is not None
    return best[1:]


def _overlap(box: np.ndarray, taken: np.ndarray) -> float:
    """Return the area, in square pixels, that a box shares with others."""
    low, high = np.maximum(box[:2], taken[:, :2]), np.minimum(box[2:], taken[:, 2:])
    return float(np.maximum(high - low, 0).prod(axis=1).sum())


def _darker(colour: str) -> str:
    """Return a colour at six tenths of its light, which thin letters need."""
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{int(0.6 * channel):02x}" for channel in channels)
