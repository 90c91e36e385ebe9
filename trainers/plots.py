"""Figures of a model folder: losses of every stage, use of the codes, documents per ID, categories under codes."""

from pathlib import Path

import numpy as np

from metrics.semantic_id_quality import Density, collision_density
from modeling_lmindexer.folder import atomic_path


def save_plots(
    folder: Path,
    loss_curves: dict[str, list[list[float]]],
    codes: np.ndarray,
    categories: list[list[str]] | None,
) -> list[str]:
    """Writes `figures/codes.png`, `figures/density.png`, `figures/losses.png` of stages that trained, and
    `figures/categories.png` of categories.

    Args:
        folder: the model folder.
        loss_curves: per stage, `[share of the stage, loss]` points.
        codes: learned codes `(N, positions)`.
        categories: one list of labels per document, general to specific; `None` where there is none.

    Returns:
        the names of the files.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = []
    if loss_curves:
        figure, axes = pyplot.subplots(1, len(loss_curves), figsize=(2.4 * len(loss_curves), 2.6), squeeze=False)
        for axis, (stage, points) in zip(axes[0], loss_curves.items(), strict=True):
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color="#2a6f97")
            axis.set_title(stage, fontsize=9)
            axis.set_xlabel("share of the stage", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
        axes[0, 0].set_ylabel("loss", fontsize=8)
        names.append(save(figure, folder, "losses.png"))

    names.append(save(plot_codes(codes), folder, "codes.png"))
    figure, axis = pyplot.subplots(figsize=(4.2, 2.8))
    plot_density(axis, collision_density(codes), colour="#2a6f97")
    names.append(save(figure, folder, "density.png"))
    if categories is not None and any(categories):
        paths = [path or [] for path in categories]
        names.append(save(plot_categories(codes[:, 0], paths), folder, "categories.png"))
    return names


def plot_codes(codes: np.ndarray):
    """How many documents have each code, for every position of `(N, positions)`."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, codes.shape[1], figsize=(3.6 * codes.shape[1], 2.8), squeeze=False)
    for position, axis in enumerate(axes[0]):
        sizes = np.sort(np.bincount(codes[:, position]))[::-1]
        axis.bar(np.arange(len(sizes)), sizes, width=1.0, color="#2a9d8f")
        axis.set_title(f"position {position + 1}: {(sizes > 0).sum()} codes used", fontsize=9)
        axis.set_xlabel("codes, most frequent first", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("documents", fontsize=8)
    return figure


def plot_density(axis, density: Density, *, colour: str, label: str | None = None) -> None:
    """How many documents share their learned codes: the share of the IDs with so many (the paper's Fig. 6).

    Args:
        axis: of matplotlib, drawn on.
        density: see [`collision_density`].
        colour, label: of the line.
    """
    shares = density.ids / density.ids.sum()
    axis.plot(density.size, shares, marker="o", markersize=3, linewidth=1.2, color=colour, label=label)
    axis.set_yscale("log")
    axis.set_xlabel("documents that share all learned codes", fontsize=8)
    axis.set_ylabel("share of the IDs", fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)


def plot_categories(codes: np.ndarray, categories: list[list[str]], number: int = 14, width: int = 4):
    """What the most frequent first codes are about: the share of their commonest categories.

    Args:
        codes: of the first position `(N,)`.
        categories: one list of labels per document, general to specific.
        number: codes shown.
        width: categories named per code.
    """
    from matplotlib import pyplot

    names = np.array([" > ".join(path[:2]) if len(path) < 3 else " > ".join(path[1:3]) for path in categories])
    frequent = np.argsort(-np.bincount(codes), kind="stable")[:number]
    figure, axis = pyplot.subplots(figsize=(9, 0.36 * len(frequent) + 1))
    colours = pyplot.get_cmap("GnBu")(np.linspace(0.85, 0.35, width))
    for row, code in enumerate(frequent):
        labels, counts = np.unique(names[codes == code], return_counts=True)
        shares = counts / counts.sum()
        left = 0.0
        for rank, place in enumerate(np.argsort(-counts, kind="stable")[:width]):
            axis.barh(row, shares[place], left=left, color=colours[rank], edgecolor="white")
            if shares[place] > 0.1:
                text = labels[place] or "(none)"
                room = int(shares[place] * 105)
                text = text if len(text) <= room else text[: max(1, room - 1)] + "…"
                colour = "white" if rank < 2 else "black"
                axis.text(left + shares[place] / 2, row, text, ha="center", va="center", fontsize=7, color=colour)
            left += shares[place]
    axis.set_yticks(range(len(frequent)), [f"<{c}>  {(codes == c).sum()} documents" for c in frequent], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("share of the documents with this first code, by category", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure, folder: Path, name: str) -> str:
    """Writes one figure, atomically."""
    from matplotlib import pyplot

    figure.tight_layout()
    with atomic_path(folder / "figures" / name) as temporary:
        figure.savefig(temporary, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    return f"figures/{name}"
