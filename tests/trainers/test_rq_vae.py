"""The rq-VAE: what moves in training, what its codes are, and that the caller's generator does not notice."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_vectors import planted_vectors

from trainers.rq_vae import RQVAEIndexer, batches, start_codebooks

pytest.importorskip("vector_quantize_pytorch")
TINY = RQVAEIndexer(hidden_sizes=[16], latent_size=6, autoencoder_epochs=4, epochs=4, batch_size=30, quiet=True)
SIZES = [4, 3]


@pytest.fixture(scope="module")
def vectors():
    return torch.from_numpy(4 * planted_vectors()[0])


def build(indexer=TINY):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return indexer.build(16, SIZES, 120)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before, after):
    return {name for name, value in after.items() if not torch.equal(before[name], value)}


def test_the_autoencoder_learns_without_the_codebooks(vectors):
    model = build()
    before = snapshot(model)
    replace(TINY, epochs=0).train(model, vectors, seed=0)
    names = set(dict(model.named_parameters()))
    assert names == {
        f"{half}.{i}.{kind}" for half in ("encoder", "decoder") for i in (0, 2) for kind in ("weight", "bias")
    }
    assert moved(before, snapshot(model)) == names


def test_then_everything_moves(vectors):
    """From codebooks that start as k-means of the latent vectors."""
    model = build()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start_codebooks(model, vectors, np.random.default_rng(0))
        before = snapshot(model)
        assert all(layer._codebook.initted for layer in model.quantizer.layers)
        replace(TINY, autoencoder_epochs=0).train(model, vectors, seed=0)
    after = snapshot(model)
    changed = moved(before, after)
    assert changed >= set(dict(model.named_parameters()))
    assert changed >= {f"quantizer.layers.{t}._codebook.embed" for t in range(2)}


def test_codebooks_start_from_k_means(vectors):
    model = build()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start_codebooks(model, vectors, np.random.default_rng(0))
    latents = model.encoder(vectors).detach()
    nearest = torch.cdist(latents, model.quantizer.layers[0].codebook).min(dim=1).values
    assert nearest.square().sum() < 0.2 * (latents - latents.mean(0)).square().sum()


def test_the_gradient_goes_straight_through(vectors):
    """The encoder gets the decoder's gradient at its output, once and not once per position."""
    model = build(replace(TINY, commitment_weight=0.0))
    start_codebooks(model, vectors, np.random.default_rng(0))
    model.encoder[-1].register_forward_hook(lambda module, args, output: output.retain_grad())
    kept = []
    model.encoder[-1].register_forward_hook(lambda module, args, output: kept.append(output))
    model.decoder[0].register_full_backward_hook(lambda module, gradients, _: kept.append(gradients[0]))
    reconstruction, commitment = model(vectors.clone(), quantize=True)
    assert commitment == 0
    reconstruction.backward()
    assert kept[0].grad.abs().sum() > 0
    torch.testing.assert_close(kept[0].grad, kept[1])


def test_reconstruction_gets_better(vectors):
    losses = []
    for epochs in (0, 30):
        model = build()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            replace(TINY, epochs=epochs).train(model, vectors, seed=0)
            losses.append(model(vectors, quantize=True)[0].item())
    assert losses[1] < 0.7 * losses[0]


def test_dead_codes_start_anew(vectors):
    """A codebook far away from everything comes back, unless it must not."""
    used = {}
    for share in (0.0, 0.5):
        indexer = replace(TINY, dead_share=share, autoencoder_epochs=0, epochs=0)
        model = build(indexer)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            start_codebooks(model, vectors, np.random.default_rng(0))
            codebook = model.quantizer.layers[0]._codebook
            for buffer in (codebook.embed, codebook.embed_avg):
                buffer[0, 1:] += 1000
            replace(indexer, epochs=8).train(model, vectors, seed=0)
        codes = model.eval().quantizer(model.encoder(vectors))[1]
        used[share] = len(codes[:, 0].unique())
    assert used[0.0] == 1 < used[0.5]


def test_codes_are_those_of_the_quantiser():
    planted = planted_vectors()[0]
    assignment = TINY.fit(planted, SIZES, seed=0)
    model = assignment.codebooks.model
    assert not model.training
    with torch.no_grad():
        codes = model.quantizer(torch.from_numpy(assignment.encoded))[1]
    np.testing.assert_array_equal(assignment.codes, codes.numpy())


def test_torch_s_generator_is_left_alone():
    state = torch.random.get_rng_state()
    TINY.fit(planted_vectors()[0], SIZES, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_batches_hold_every_row_once():
    parts = list(batches(10, 4, np.random.default_rng(0)))
    assert sorted(np.concatenate(parts)) == list(range(10)) and {len(part) for part in parts} == {5}
    assert [len(part) for part in batches(3, 100, np.random.default_rng(0))] == [3]


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    with pytest.raises(ImportError, match=r"lmindexer\[rivals\]"):
        build()
