"""Codes that follow their documents, against plain loops, and codes that start again."""

import math

import pytest
import torch

from modeling_lmindexer.codebooks import Codebook
from trainers.codebook_updates import STATE_NAME, CodebookUpdates

SIMILARITIES = ("cosine", "dot", "euclidean")


def codebook(similarity="euclidean", size=4, width=3):
    book = Codebook(size, width, similarity, 1.0)
    book.initialize(torch.randn(size, width, generator=torch.Generator().manual_seed(0)) * 2)
    return book


def batches(number, size=4, width=3, seed=1):
    """States and codes of batches of different sizes; the last code is rare."""
    random = torch.Generator().manual_seed(seed)
    shares = torch.tensor([4.0, 3.0, 2.0, 0.2])[:size]
    found = []
    for step in range(number):
        codes = torch.multinomial(shares, 9 + step % 3, replacement=True, generator=random)
        found.append((torch.randn(len(codes), width, generator=random) + codes[:, None], codes))
    return found


def unit(row):
    length = math.hypot(*row)
    return [value / length for value in row]


def averages_by_loops(book, steps, decay):
    """Places of the codes after all steps, in plain numbers."""
    weight, size, total = book.weight.tolist(), None, None
    norm = book.norm.item()

    def placed(row):
        return row if book.similarity == "euclidean" else [norm * value for value in unit(row)]

    for states, codes in steps:
        if size is None:
            size = [len(codes) / len(weight)] * len(weight)
            total = [[value * size[0] for value in row] for row in weight]
        for code in range(len(weight)):
            own = [placed(row) for row, c in zip(states.tolist(), codes.tolist(), strict=True) if c == code]
            size[code] = decay * size[code] + (1 - decay) * len(own)
            for i in range(len(weight[code])):
                total[code][i] = decay * total[code][i] + (1 - decay) * sum(row[i] for row in own)
            weight[code] = placed([value / size[code] for value in total[code]])
    return weight


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_codes_are_moving_averages_of_their_documents(similarity, decay):
    book, steps = codebook(similarity), batches(6)
    expected = torch.tensor(averages_by_loops(book, steps, decay))
    start = book.weight.detach().clone()
    updates = CodebookUpdates(book, decay, 0.0, seed=0)
    for step, (states, codes) in enumerate(steps):
        half = len(codes) // 2  # two micro-batches
        updates.observe(states[:half], codes[:half])
        updates.observe(states[half:].requires_grad_(), codes[half:])
        assert updates.apply(step) == 0
    torch.testing.assert_close(book.weight.detach(), expected, rtol=1e-4, atol=1e-5)
    assert (book.weight - start).norm(dim=1).min() > 0.1
    assert book.weight.requires_grad and book.weight.grad is None
    lengths = book.weight.norm(dim=-1)
    if similarity == "euclidean":
        assert lengths.std() > 0.1
    else:  # no code wins by its length
        torch.testing.assert_close(lengths, book.norm.expand(4))


def test_fillers_and_documents_of_other_processes():
    """`gather` is asked for what one process saw of a step, and fillers are left out of what comes back."""
    (states, codes), others = batches(1)[0], (torch.full((2, 3), 9.0), torch.tensor([1, 2]))
    expected, found = codebook(), codebook()
    updates = CodebookUpdates(expected, 0.5, 0.0, seed=0)
    updates.observe(torch.cat([states, others[0][:1]]), torch.cat([codes, others[1][:1]]))
    updates.apply(0)
    asked, counts = [], torch.tensor([1, 0])

    def gather(seen):
        asked.append([len(part) for part in seen])
        theirs = updates.as_codes(others[0]), others[1], counts
        return tuple(torch.cat(pair) for pair in zip(seen, theirs, strict=True))

    updates = CodebookUpdates(found, 0.5, 0.0, seed=0)
    for start in (0, 3):  # of two parts
        updates.observe(states[start : start + 3], codes[start : start + 3])
    updates.observe(states[6:], codes[6:])
    updates.apply(0, gather)
    assert asked == [[len(codes)] * 3]
    assert torch.equal(found.weight, expected.weight)


def test_a_code_that_nobody_has_stays_where_it_is():
    """Also when next to nothing is left of its average."""
    book = codebook()
    start = book.weight.detach().clone()
    updates = CodebookUpdates(book, 0.5, 0.0, seed=0)
    for step in range(200):
        updates.observe(torch.ones(6, 3), torch.tensor([0, 0, 1, 1, 2, 2]))
        updates.apply(step)
    torch.testing.assert_close(book.weight[3].detach(), start[3])
    torch.testing.assert_close(book.weight[:3].detach(), torch.ones(3, 3))


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("decay", [0.0, 0.8])
def test_a_code_that_hardly_anybody_has_starts_again_at_a_document(similarity, decay):
    book = codebook(similarity)
    start = book.weight.detach().clone()
    updates = CodebookUpdates(book, decay, 0.3, seed=0)
    states, restarts = torch.randn(8, 3), []
    for step in range(200):
        updates.observe(states, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]))
        restarts.append(updates.apply(step))
        if restarts[-1]:
            break
    # The share of an equal part falls by the decay: 0.98 where there is none.
    expected = math.ceil(math.log(0.3) / math.log(decay or 0.98))
    assert restarts == [0] * (expected - 1) + [1]
    places = updates.as_codes(states)
    assert (places - book.weight[3]).norm(dim=1).min() == 0
    assert updates.size[3] == 2 and torch.equal(updates.total[3], 2 * book.weight[3])
    if decay == 0:  # the others are the optimizer's
        assert torch.equal(book.weight[:3], start[:3])
    updates.observe(states, torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]))
    assert updates.apply(step + 1) == 0  # it has time to find its documents


def restarted(seed, step):
    book = codebook(size=4)
    updates = CodebookUpdates(book, 0.0, 0.99, seed)
    updates.observe(torch.arange(60.0).reshape(20, 3), torch.zeros(20, dtype=torch.long))
    assert updates.apply(step) == 3
    return book.weight[1:].tolist()


def test_documents_of_restarts_are_drawn_by_seed_and_step():
    assert restarted(3, 7) == restarted(3, 7)
    assert len({str(restarted(seed, step)) for seed, step in ((3, 7), (3, 8), (4, 7), (2**32 - 1, 7))}) == 4
    assert len({str(place) for place in restarted(3, 7)}) == 3  # three codes at three documents


def test_no_more_codes_start_again_than_there_are_documents():
    book = codebook(size=4)
    updates = CodebookUpdates(book, 0.0, 0.99, seed=0)
    updates.observe(torch.ones(2, 3), torch.zeros(2, dtype=torch.long))
    assert updates.apply(0) == 2


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_checkpoint_brings_the_averages_back(tmp_path, decay):
    steps, threshold = batches(14), 0.6 if decay else 0.95
    whole, first = codebook(), codebook()
    for book, part in ((whole, steps), (first, steps[:7])):
        updates = CodebookUpdates(book, decay, threshold, seed=0)
        for step, seen in enumerate(part):
            updates.observe(*seen)
            updates.apply(step)
    updates.save(tmp_path)
    updates = CodebookUpdates(first, decay, threshold, seed=0)
    updates.load(tmp_path)
    restarts = 0
    for step, seen in enumerate(steps[7:], 7):
        updates.observe(*seen)
        restarts += updates.apply(step)
    assert torch.equal(first.weight, whole.weight) and restarts > 0


def test_before_the_first_step_there_is_nothing_to_keep(tmp_path):
    updates = CodebookUpdates(codebook(), 0.9, 0.1, seed=0)
    updates.save(tmp_path)
    assert not (tmp_path / STATE_NAME).exists()
    updates.load(tmp_path)
    assert updates.size is None
