"""Figures of a model folder: the losses of every stage, and how evenly the codes are used."""

from pathlib import Path

import numpy as np

from modeling_lmindexer.folder import atomic_path


def save_plots(folder: Path, loss_curves: dict[str, list[tuple[float, float]]], codes: np.ndarray) -> list[str]:
    """Writes `figures/losses.png` and `figures/codes.png`; returns their names.

    Args:
        folder: the model folder.
        loss_curves: per stage, `(share of the stage, loss)` points.
        codes: learned codes `(N, positions)`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(loss_curves), figsize=(2.4 * len(loss_curves), 2.6), squeeze=False)
    for axis, (stage, points) in zip(axes[0], loss_curves.items(), strict=True):
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color="#2a6f97")
        axis.set_title(stage, fontsize=9)
        axis.set_xlabel("share of the stage", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("loss", fontsize=8)
    names = [save(figure, folder, "losses.png")]

    figure, axes = pyplot.subplots(1, codes.shape[1], figsize=(3.6 * codes.shape[1], 2.8), squeeze=False)
    for position, axis in enumerate(axes[0]):
        sizes = np.sort(np.bincount(codes[:, position]))[::-1]
        axis.bar(np.arange(len(sizes)), sizes, width=1.0, color="#2a9d8f")
        axis.set_title(f"position {position + 1}: {(sizes > 0).sum()} codes used", fontsize=9)
        axis.set_xlabel("codes, most frequent first", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("documents", fontsize=8)
    return [*names, save(figure, folder, "codes.png")]


def save(figure, folder: Path, name: str) -> str:
    """Writes one figure, atomically."""
    from matplotlib import pyplot

    figure.tight_layout()
    with atomic_path(folder / "figures" / name) as temporary:
        figure.savefig(temporary, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    return f"figures/{name}"
