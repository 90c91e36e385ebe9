import copy
import pickle

import pytest
import torch

from modeling_lmindexer import logits_process
from modeling_lmindexer.logits_process import PrefixTreeLogitsProcessor
from modeling_lmindexer.prefix_tree import PrefixTree

PAD, EOS = 0, 1
TOKENS = torch.arange(10, 40)  # the model's token of code 0, 1, ...
FIXED = [[0, 7, 12], [0, 7, 13], [0, 8, 12], [1, 7, 12], [1, 9, 14], [2, 6, 15], [5, 6, 15], [5, 9, 13]]
RAGGED = [[0], [0, 7], [0, 7, 13], [1, 7, 12], [1, 9], [2, 6, 15], [5], [5, 9, 13]]


@pytest.fixture(autouse=True)
def small_memory_is_kept_too(monkeypatch):
    """Scores of a few rows would be written to fresh memory, where nothing can go wrong."""
    monkeypatch.setattr(logits_process, "WORTH_KEEPING", 0)
    monkeypatch.setattr(logits_process, "WIDE", 0)


def calls(number=20, vocabulary=20):
    """Inputs and scores of changing levels, rows and types."""
    generator = torch.Generator().manual_seed(0)
    paths = torch.tensor(FIXED)
    for i in range(number):
        level, rows = i % 3, (1, 6, 40)[i // 3 % 3]
        dtype = (torch.float32, torch.bfloat16, torch.float16)[i // 4 % 3]
        picked = paths[torch.randint(0, len(paths), (rows,), generator=generator), :level]
        scores = torch.rand(rows, vocabulary + i // 7, generator=generator).to(dtype)
        yield torch.nn.functional.pad(picked, (1, 0)), scores


HOLDS = {
    "itself": lambda output: output,
    "row": lambda output: output[-1:],
    "transposed": lambda output: output.T,
    "detached": lambda output: output.detach(),
    "flat": lambda output: output.view(-1)[3:],
    "storage": lambda output: output.untyped_storage(),
    "numpy": lambda output: output.view(torch.uint8).numpy(),
    "data": lambda output: output.data,
}


def bits(held):
    """What is in memory, whatever holds it."""
    if isinstance(held, torch.UntypedStorage):
        held = torch.tensor([], dtype=torch.uint8).set_(held)
    if isinstance(held, torch.Tensor):
        held = held.reshape(-1).view(torch.uint8).numpy()
    return held.copy()


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_what_a_caller_keeps_is_never_overwritten(hold, every):
    tree = PrefixTree.from_sequences(FIXED)
    trie, fresh = PrefixTreeLogitsProcessor(tree), PrefixTreeLogitsProcessor(tree, reuse_buffer=False)
    kept = []
    for i, (input_ids, scores) in enumerate(calls()):
        before = scores.clone()
        output = trie(input_ids, scores)
        assert torch.equal(output, fresh(input_ids, scores)) and output.dtype == scores.dtype
        assert torch.equal(scores, before)
        assert output.untyped_storage().data_ptr() != scores.untyped_storage().data_ptr()
        if i % every == 0:
            kept.append((hold(output), bits(hold(output))))
        del output
    assert len(kept) == -(-20 // every)
    for held, expected in kept:
        assert (bits(held) == expected).all()


# The last takes memory from the system in large pages.
@pytest.mark.parametrize(("number", "vocabulary"), [(2, 20), (64, 2048), (64, 20_480)])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_memory_is_used_again_once_it_is_let_go(number, vocabulary, mode):
    tree = PrefixTree.from_sequences(FIXED)
    trie, fresh = PrefixTreeLogitsProcessor(tree), PrefixTreeLogitsProcessor(tree, reuse_buffer=False)
    rows, scores = torch.tensor([[0, 0], [0, 1]]).repeat(number // 2, 1), torch.rand(number, vocabulary)
    with mode():
        places, others = [], []
        for level in (1, 0, 1, 1):
            output = trie(rows[:, : 1 + level], scores)
            assert torch.equal(output, fresh(rows[:, : 1 + level], scores))
            places.append(output.data_ptr())
            del output
            others.append(torch.empty(number, vocabulary))  # would take the place of memory that was given back
        assert len(set(places)) == 1
        kept = trie(rows, scores)
        assert kept.data_ptr() in places
        view = kept[0]
        del kept
        assert trie(rows, scores).data_ptr() != places[0]
        assert view.isfinite().nonzero().squeeze(1).tolist() == [7, 8]
        outputs = [fresh(rows, scores) for _ in range(3)]
        assert len({output.data_ptr() for output in outputs}) == 3


@pytest.mark.parametrize(
    "write",
    [
        lambda output: output.exp_(),
        lambda output: output.add_(torch.inf).nan_to_num_(0.0),
        lambda output: output[:, 3:].fill_(0.5),
        lambda output: output.detach().zero_(),
        lambda output: output.__setitem__((0, 19), 1.0),
        lambda output: torch.softmax(output, -1, out=output),
    ],
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_what_a_caller_writes_does_not_come_back(write, mode):
    """The next processor in a list, or a search of the caller's own, may work in place on what it got."""
    tree = PrefixTree.from_sequences(FIXED)
    trie, fresh = PrefixTreeLogitsProcessor(tree), PrefixTreeLogitsProcessor(tree, reuse_buffer=False)
    rows, scores = torch.tensor([[0, 0], [0, 1]]), torch.rand(2, 20)
    with mode():
        for level in (1, 1, 0, 1):
            output = trie(rows[:, : 1 + level], scores)
            assert torch.equal(output, fresh(rows[:, : 1 + level], scores))
            write(output)
            del output


def test_gradients_reach_the_scores():
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(FIXED))
    for rows in ([[0, 0], [0, 5]], [[0], [0]], [[0, 1], [0, 2]]):
        scores = torch.rand(2, 20, requires_grad=True)
        output = trie(torch.tensor(rows), scores)
        allowed = output.isfinite()
        output[allowed].sum().backward()
        assert torch.equal(scores.grad, allowed.float())


def test_inference_mode_and_others_take_turns():
    """Memory of inference mode cannot be written to outside of it."""
    tree = PrefixTree.from_sequences(FIXED)
    trie, fresh = PrefixTreeLogitsProcessor(tree), PrefixTreeLogitsProcessor(tree, reuse_buffer=False)
    rows, scores = torch.tensor([[0, 0], [0, 1]]), torch.rand(2, 20)
    expected = fresh(rows, scores)
    for mode in (torch.inference_mode, torch.enable_grad, torch.no_grad, torch.inference_mode, torch.no_grad) * 2:
        with mode():
            assert torch.equal(trie(rows, scores), expected)
            assert torch.equal(trie(rows[:, :1], scores), fresh(rows[:, :1], scores))


def test_copies_and_pickles_answer_alike_and_share_no_memory():
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(RAGGED), 1, TOKENS, EOS, PAD)
    rows, scores = torch.tensor([[0, 10], [0, 15]]), torch.rand(2, 5000)
    size = len(pickle.dumps(trie))
    output = trie(rows, scores)
    expected = output.clone()
    assert len(pickle.dumps(trie)) < size + 1000, "the lent memory travels along"
    for processor in (trie, trie.filtered([[0, 1, 2], [6, 7]])):
        wanted = processor(rows, scores).clone()
        for other in (copy.copy(processor), copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
            assert (other.prompt_length, other.eos_token_id, other.pad_token_id) == (1, EOS, PAD)
            found = other(rows, scores)
            assert torch.equal(found, wanted)
            mine = processor(rows, -scores)
            assert torch.equal(found, wanted) and mine.data_ptr() != found.data_ptr()
    assert torch.equal(output, expected)


def test_a_filtered_processor_lends_no_memory_of_the_other():
    trie = PrefixTreeLogitsProcessor(PrefixTree.from_sequences(FIXED))
    one, other = trie.filtered([0, 1]), trie.filtered([6, 7])
    rows, scores = torch.tensor([[0], [0]]), torch.rand(2, 20)
    outputs = [processor(rows, scores) for processor in (trie, one, other)]
    allowed = [output.isfinite().nonzero()[:, 1].unique().tolist() for output in outputs]
    assert allowed == [[0, 1, 2, 5], [0], [5]]
