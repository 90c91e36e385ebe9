"""Figures of a model folder: those there is something to draw of, and what the density figure shows."""

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from metrics.semantic_id_quality import collision_density  # noqa: E402
from trainers.plots import plot_density, save_plots  # noqa: E402

CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [2, 0]])
ALWAYS = ["figures/codes.png", "figures/density.png"]


@pytest.mark.parametrize(
    ("curves", "categories", "expected"),
    [
        ({}, None, ALWAYS),
        ({}, [[] for _ in CODES], ALWAYS),
        ({"1-discrete": [[0.5, 2.0], [1.0, 1.0]]}, [["a"], None, ["a", "b"], ["c"], ["c"], []],
         ["figures/losses.png", *ALWAYS, "figures/categories.png"]),
    ],
)  # fmt: skip
def test_there_is_a_figure_for_all_there_is(tmp_path, curves, categories, expected):
    assert save_plots(tmp_path, curves, CODES, categories) == expected
    assert sorted(f"figures/{path.name}" for path in (tmp_path / "figures").iterdir()) == sorted(expected)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in expected)
    assert not pyplot.get_fignums()


def test_density_is_the_share_of_ids_by_their_documents():
    figure, axis = pyplot.subplots()
    plot_density(axis, collision_density(CODES), colour="black", label="a run")
    (line,) = axis.get_lines()
    assert line.get_label() == "a run"
    np.testing.assert_array_equal(line.get_xdata(), [1, 2])
    np.testing.assert_array_equal(line.get_ydata(), [0.5, 0.5])
    pyplot.close(figure)
