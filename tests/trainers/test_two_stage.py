"""What all two-stage indexers have in common, from vectors to an index on disk."""

from dataclasses import replace

import numpy as np
import pytest
from planted_vectors import planted_vectors, same_partition

from modeling_lmindexer import SemanticIndex
from trainers.cluster_inputs import ClusterInputs
from trainers.hierarchical import HierarchicalKMeans
from trainers.micro_clusters import MicroClusters
from trainers.product_quantization import ProductQuantization
from trainers.reassignment import reassign
from trainers.residual_kmeans import ResidualKMeans
from trainers.rivals import RandomIDs
from trainers.rq_vae import RQVAEIndexer
from trainers.two_stage import index_of

SIZES = [4, 3, 5]
INDEXERS = {
    "residual": ResidualKMeans(),
    "residual, euclidean": ResidualKMeans(similarity="euclidean"),
    "residual, unit": ResidualKMeans(unit_residuals=True),
    "hierarchical": HierarchicalKMeans(),
    "micro": MicroClusters(),
    "micro, inside": MicroClusters(later="inside"),
    "ward": MicroClusters(share=1.0),
    "ward, settled": MicroClusters(share=1.0, settling=5),
    "product": ProductQuantization(),
    "product, as they are": ProductQuantization(rotation="none"),
    "rq-vae": RQVAEIndexer(
        hidden_sizes=[32], latent_size=8, autoencoder_epochs=20, epochs=10, batch_size=30, quiet=True
    ),
}
ALL = INDEXERS | {"random": RandomIDs()}


@pytest.fixture(scope="module")
def planted():
    return planted_vectors()


@pytest.fixture(scope="module")
def assignments(planted):
    return {name: indexer.fit(planted[0], SIZES, seed=1) for name, indexer in ALL.items()}


@pytest.mark.parametrize("name", ALL)
def test_codes_are_in_range(assignments, name):
    codes = assignments[name].codes
    assert codes.shape == (120, 3) and codes.dtype == np.int64 and assignments[name].sizes == SIZES
    assert codes.min() >= 0 and (codes.max(axis=0) < SIZES).all()
    assert len(np.unique(codes[:, 0])) == 4


@pytest.mark.parametrize("name", INDEXERS)
def test_planted_clusters_are_found(assignments, planted, name):
    assert same_partition(assignments[name].codes[:, 0], planted[1])


@pytest.mark.parametrize(
    "name", [name for name in INDEXERS if name not in ("product", "product, as they are", "rq-vae")]
)
def test_clusters_inside_them_too(assignments, planted, name):
    codes = assignments[name].codes
    assert same_partition(codes[:, 0] * 3 + codes[:, 1], planted[1] * 3 + planted[2])


@pytest.mark.parametrize("name", ALL)
def test_the_seed_decides_every_bit(assignments, planted, name):
    again = ALL[name].fit(planted[0], SIZES, seed=1)
    np.testing.assert_array_equal(again.codes, assignments[name].codes)
    np.testing.assert_array_equal(again.encoded, assignments[name].encoded)
    for position in range(3):
        np.testing.assert_array_equal(*(costs_of_all(result, position) for result in (again, assignments[name])))


def costs_of_all(assignment, position):
    return assignment.costs(position, np.arange(len(assignment.codes)), assignment.codes[:, :position])


@pytest.mark.parametrize("name", ALL)
def test_the_cheapest_code_is_the_document_s(assignments, name):
    assignment = assignments[name]
    for position, size in enumerate(SIZES):
        costs = costs_of_all(assignment, position)
        assert costs.shape == (120, size) and np.isfinite(costs).all()
        np.testing.assert_array_equal(costs.argmin(axis=1), assignment.codes[:, position])


@pytest.mark.parametrize("name", ALL)
def test_costs_are_those_of_the_rows_and_prefixes_asked_for(assignments, name):
    """Some documents after their own prefix, and after another's that exists."""
    assignment, rows = assignments[name], np.array([7, 3, 90])
    expected = costs_of_all(assignment, 2)[rows]
    np.testing.assert_allclose(assignment.costs(2, rows, assignment.codes[rows, :2]), expected, atol=1e-12)
    other = assignment.costs(2, rows, assignment.codes[rows[::-1], :2])
    assert other.shape == (3, 5) and np.isfinite(other).all()


@pytest.mark.parametrize("name", INDEXERS)
def test_fitted_documents_are_assigned_their_codes(assignments, planted, name):
    order = np.random.default_rng(0).permutation(120)[:50]
    np.testing.assert_array_equal(assignments[name].assign(planted[0][order]), assignments[name].codes[order])


@pytest.mark.parametrize("name", INDEXERS)
def test_new_documents_join_the_clusters(assignments, planted, name):
    vectors, topics, _ = planted_vectors(documents_of_each=4, seed=5)
    codes = assignments[name].assign(vectors)
    assert codes.shape == (48, 3) and (codes.max(axis=0) < SIZES).all()
    together = np.concatenate([assignments[name].codes[:, 0], codes[:, 0]])
    assert same_partition(together, np.concatenate([planted[1], topics]))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sizes", [[4], [2, 3, 2, 4]])
def test_any_number_of_positions_of_any_size(planted, name, sizes):
    indexer = ALL[name]
    if name == "rq-vae":
        indexer = replace(indexer, epochs=1, autoencoder_epochs=0)
    codes = indexer.fit(planted[0], sizes, seed=0).codes
    assert codes.shape == (120, len(sizes)) and (codes.max(axis=0) < sizes).all()


@pytest.mark.parametrize("name", ALL)
def test_ids_become_unique_without_another_position(assignments, name):
    """Costs are what a reassignment takes, also after prefixes that no document had."""
    assignment = ALL[name].fit(planted_vectors()[0], [6, 5, 5], seed=0)
    result = reassign(assignment.codes, assignment.sizes, assignment.costs, list(range(120)))
    assert len(np.unique(result.codes, axis=0)) == 120


def test_words_are_joined_to_any_indexer_s_vectors(planted):
    """Of vectors that say nothing of the topic, and texts that do; the brand's words say something else."""
    _, topics, kinds = planted
    noise = np.random.default_rng(2).normal(size=(120, 6)).astype(np.float32)
    brands = [f"maker{kind} brand{kind} house{kind}" for kind in kinds]
    texts = [f"{brand} topic{topic} word{topic}" for brand, topic in zip(brands, topics, strict=True)]
    inputs = ClusterInputs(tfidf_weight=10.0)
    for indexer in (ResidualKMeans(inputs=inputs), MicroClusters(inputs=inputs), HierarchicalKMeans(inputs=inputs)):
        assignment = indexer.fit(noise, [4], 0, texts, brands)
        assert same_partition(assignment.codes[:, 0], topics)
        np.testing.assert_array_equal(assignment.assign(noise[:9], texts[:9], brands[:9]), assignment.codes[:9])
        with_brands = indexer.fit(noise, [3], 0, texts)
        assert same_partition(with_brands.codes[:, 0], kinds)


def test_an_index_with_room_for_those_that_share_codes(tmp_path):
    codes = np.array([[0, 1], [0, 1], [2, 0], [0, 1]])
    index = index_of(["d", "a", "c", "b"], codes, [3, 2])
    assert index.position_sizes == [3, 2, 3]
    assert index.semantic_ids == ["<0><1><2>", "<0><1><0>", "<2><0><0>", "<0><1><1>"]
    assert index_of(["d", "a", "c", "b"], codes, [3, 2], room=8).position_sizes == [3, 2, 8]
    assert index_of(["d", "a"], codes[1:3], [3, 2]).position_sizes == [3, 2, 1]
    index.save_pretrained(tmp_path)
    assert SemanticIndex.from_pretrained(tmp_path).semantic_ids == index.semantic_ids


@pytest.mark.parametrize("sizes", [[], [4, 1]])
def test_sizes_below_two_are_an_error(planted, sizes):
    with pytest.raises(ValueError, match="at least 2 per position"):
        ResidualKMeans().fit(planted[0], sizes, seed=0)


@pytest.mark.parametrize("name", INDEXERS)
def test_too_few_documents_are_an_error(name):
    with pytest.raises(ValueError, match="3 (distinct )?documents, 4 codes: set a smaller codebook"):
        INDEXERS[name].fit(np.eye(3, 16, dtype=np.float32), [4], seed=0)


def test_costs_ask_for_prefixes_of_their_position(assignments):
    for position, prefixes in ((1, np.zeros((2, 2))), (3, np.zeros((2, 3))), (-1, np.zeros((2, 0)))):
        with pytest.raises(ValueError, match="needs prefixes of shape"):
            assignments["residual"].costs(position, np.arange(2), prefixes)


@pytest.mark.parametrize("vectors", [np.zeros(5), np.full((5, 2), np.nan), np.zeros((0, 2))])
def test_vectors_that_are_none(vectors):
    with pytest.raises(ValueError, match="expected finite vectors"):
        ResidualKMeans().fit(vectors.astype(np.float32), [2], seed=0)


def test_similarities_are_checked():
    with pytest.raises(ValueError, match="similarity is cosine or euclidean, not 'dot'"):
        MicroClusters(similarity="dot")
