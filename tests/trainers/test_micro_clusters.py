"""Many small clusters, joined: rare kinds of documents get codes of their own."""

import numpy as np
import pytest
from planted_vectors import planted_vectors, same_partition
from scipy.cluster.hierarchy import fcluster
from scipy.cluster.hierarchy import ward as scipy_ward
from sklearn.metrics import adjusted_mutual_info_score

from trainers.micro_clusters import MicroClusters, ward
from trainers.residual_kmeans import ResidualKMeans


def test_ward_is_scipy_s():
    points = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    assert same_partition(ward(points, 7), fcluster(scipy_ward(points.astype(np.float64)), 7, "maxclust"))


def test_rare_kinds_get_codes():
    """A dense, wide kind and seven small ones: k-means cuts the wide one."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), [400, *[4] * 7])
    centres = np.vstack([[0, 0, 0], 1.2 * np.eye(3), -1.2 * np.eye(3), [[0.9, 0.9, 0]]])
    spread = np.where(labels == 0, 0.25, 0.01)[:, None]
    vectors = (centres[labels] + spread * rng.normal(size=(428, 3))).astype(np.float32)
    settings = {"similarity": "euclidean", "restarts": 1}
    amis = []
    for indexer in (MicroClusters(share=0.1, **settings), ResidualKMeans(**settings)):
        indexer.inputs.normalization = "raw"
        codes = indexer.fit(vectors, [8], seed=0).codes[:, 0]
        amis.append(adjusted_mutual_info_score(labels, codes))
    assert amis[0] > amis[1] + 0.1


def test_a_code_costs_what_its_nearest_small_cluster_does():
    vectors = planted_vectors()[0]
    assignment = MicroClusters(share=0.3, similarity="euclidean").fit(vectors, [4], seed=0)
    level = assignment.codebooks.levels[0]
    assert len(level.points) == 36 and np.bincount(level.codes).min() >= 1
    distances = np.square(assignment.encoded[:, None] - level.points).sum(axis=2)
    np.testing.assert_array_equal(level.codes[distances.argmin(axis=1)], assignment.codes[:, 0])
    np.testing.assert_allclose(
        level.centres,
        [assignment.encoded[assignment.codes[:, 0] == code].mean(axis=0) for code in range(4)],
        atol=1e-6,
    )


def test_settling_leaves_one_centroid_per_code_nearer_to_the_documents():
    vectors = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)

    def spread(settling):
        assignment = MicroClusters(share=1.0, settling=settling).fit(vectors, [10], seed=0)
        level = assignment.codebooks.levels[0]
        assert len(level.points) == (10 if settling else 200)
        return np.square(assignment.encoded - level.centres[assignment.codes[:, 0]]).sum()

    assert spread(0) > spread(1) > spread(20)


def test_equal_documents_are_one_point():
    vectors = np.repeat(np.eye(6, dtype=np.float32), 5, axis=0)
    for share in (0.35, 1.0):
        assignment = MicroClusters(share=share).fit(vectors, [6], seed=0)
        assert same_partition(assignment.codes[:, 0], np.repeat(np.arange(6), 5))
        assert len(assignment.codebooks.levels[0].points) == 6
        with pytest.raises(ValueError, match="6 distinct documents, 7 codes: set a smaller codebook"):
            MicroClusters(share=share).fit(vectors, [7], seed=0)


def test_too_many_points_for_ward_are_an_error(monkeypatch):
    monkeypatch.setattr("trainers.micro_clusters.MOST_POINTS", 30)
    with pytest.raises(ValueError, match="120 documents are 60 clusters.*at most 30, set share to 0.25 or less"):
        MicroClusters(share=0.5).fit(planted_vectors()[0], [4], seed=0)


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 1.5}, {"later": "beside"}])
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match="share=.* is above 0 and at most 1, and later=.* is residual or inside"):
        MicroClusters(**settings)
