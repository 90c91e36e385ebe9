"""Beam search in a prefix tree: only what the tree allows is ever scored, ranked or kept."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import LongTensor, Tensor

from .prefix_tree import PrefixTree


class Beams(NamedTuple):
    """The best prefixes of each text, in ascending order. A beam that leads nowhere has node -1 and score -inf.

    Args:
        parents: row that each continues, among all beams of all texts, `(texts, beams)`.
        codes: its last code `(texts, beams)`; some code of that position where there is none.
        nodes: `(texts, beams)`.
        scores: log-probabilities `(texts, beams)`.
    """

    parents: LongTensor
    codes: LongTensor
    nodes: LongTensor
    scores: Tensor


def beam_search(
    step: Callable,
    tree: PrefixTree,
    prompt: LongTensor,
    num_beams: int,
    *,
    num_codes: int | None = None,
    prompt_length: int = 1,
    static: bool | None = None,
    among: PrefixTree | None = None,
    trace: list | None = None,
) -> tuple[LongTensor, Tensor]:
    """The most likely sequences of a tree, as `generate` with its logits processor finds them.

    `generate` takes whichever it meets of equally likely ones, such as the documents of a group before the last
    position is trained; here the first ones win.

    Args:
        step: `step(ids, parents)` gives log-probabilities `(rows, columns)` of what follows the rows of `ids`
            `(rows, prompt_length + level)`; `parents` `(rows,)` are the rows of the call before that they continue,
            None at first. `step.columns(codes, level)` gives the column of each code.
        tree: on the device of the prompt.
        prompt: start token and codes that are given `(texts, prompt_length + codes)`.
        num_beams: prefixes of each text that are kept after each position.
        num_codes: how many codes to add; by default up to the end of the longest sequence.
        prompt_length: tokens of the prompt before the first code.
        static: see [`best_children`].
        among: the tree, or the one that it is a filter of: probabilities are then those among the codes that this one
            has after a prefix. With the tree itself, filters included, it is `renormalize_logits` of `generate`.
        trace: gets, after each position, the codes added so far and the log-probabilities, shaped as what is returned.

    Returns:
        codes `(texts, beams, codes that were added)`, each text's in ascending order, and their log-probabilities
        `(texts, beams)`, -inf for what is no sequence of the tree; `num_beams` of them, or as many as one text has.
    """
    num_texts, level = len(prompt), prompt.shape[1] - prompt_length
    last = tree.depth if num_codes is None else min(level + num_codes, tree.depth)
    ids, parents = prompt, None
    nodes, scores = at_prompt(tree, prompt[:, prompt_length:])
    for position in range(level, last):
        log_probabilities = step(ids, parents)
        if among is not None:
            log_probabilities = among_children(among, nodes, position, log_probabilities, step.columns, static)
        beams = best_children(
            tree, nodes, position, scores, log_probabilities, step.columns, num_texts, num_beams, static
        )
        if beams is None:
            return ids.new_empty(num_texts, 0, last - level), scores.new_empty(num_texts, 0)
        parents, nodes, scores = beams.parents.flatten(), beams.nodes.flatten(), beams.scores.flatten()
        ids = torch.cat([ids[parents], beams.codes.view(-1, 1)], dim=1)
        if trace is not None:
            trace.append((ids[:, prompt.shape[1] :].unflatten(0, (num_texts, -1)), beams.scores))
    return ids[:, prompt.shape[1] :].unflatten(0, (num_texts, -1)), scores.unflatten(0, (num_texts, -1))


def at_prompt(tree: PrefixTree, codes: LongTensor) -> tuple[LongTensor, Tensor]:
    """Nodes and scores `(texts,)` of the codes `(texts, level)` in a prompt: 0, or -inf where no ID has them."""
    nodes = tree.walk(codes)
    return nodes, torch.zeros(len(codes), device=codes.device).masked_fill(nodes < 0, -torch.inf)


def waits_for_nothing(nodes: LongTensor, static: bool | None) -> bool:
    """Whether shapes must not depend on the tree's contents; see [`best_children`]."""
    return nodes.device.type != "cpu" if static is None else static


def among_children(
    tree: PrefixTree, nodes: LongTensor, level: int, log_probabilities: Tensor, columns: Callable,
    static: bool | None = None,
) -> Tensor:  # fmt: skip
    """`log_probabilities` `(rows, columns)`, those of every row's children summing up to one; arguments as for
    [`best_children`]."""
    if waits_for_nothing(nodes, static):
        codes, children = tree.expand_padded(nodes, level)
        own = log_probabilities.gather(1, columns(codes, level)).masked_fill(children < 0, -torch.inf)
        sums = own.logsumexp(1)
    else:
        rows, codes, _ = tree.expand(nodes, level)
        own = log_probabilities.take(rows * log_probabilities.shape[1] + columns(codes, level))
        largest = own.new_full((len(nodes),), -torch.inf).scatter_reduce_(0, rows, own, "amax")
        sums = torch.zeros_like(largest).index_add_(0, rows, (own - largest[rows]).exp()).log() + largest
    return log_probabilities - sums.masked_fill(sums == -torch.inf, 0)[:, None]


def best_children(
    tree: PrefixTree,
    nodes: LongTensor,
    level: int,
    scores: Tensor,
    log_probabilities: Tensor,
    columns: Callable,
    num_texts: int,
    num_beams: int,
    static: bool | None = None,
) -> Beams | None:
    """The `num_beams` best children of all of a text's nodes; fewer when no text has as many, None when none has any.

    Args:
        nodes: `(rows,)` of `level`, equally many rows for each text.
        scores: of the nodes `(rows,)`.
        log_probabilities: `(rows, columns)`.
        static: whether shapes must not depend on the tree's contents, so that nothing waits for the device; by
            default not on the CPU, where the exact list of children is cheaper.
    """
    choose = best_of_table if waits_for_nothing(nodes, static) else best_of_list
    return choose(tree, nodes, level, scores, log_probabilities, columns, num_texts, num_beams)


def best_of_list(tree, nodes, level, scores, log_probabilities, columns, num_texts, num_beams) -> Beams | None:
    """[`best_children`] out of the list of all children; None when there are none."""
    rows, codes, children = tree.expand(nodes, level)
    if len(rows) == 0:
        return None
    cells = rows * log_probabilities.shape[1] + columns(codes, level)
    values = log_probabilities.take(cells) + scores[rows]
    if num_texts == 1:
        index = best_of_each_text(values[None], num_beams)
        return Beams(rows[index], codes[index], children[index], values[index])
    texts = rows // (len(nodes) // num_texts)
    counts = texts.bincount(minlength=num_texts)
    first = counts.cumsum(0) - counts
    table = values.new_full((num_texts, int(counts.max())), -torch.inf)
    table[texts, torch.arange(len(rows), device=rows.device) - first[texts]] = values
    places = best_of_each_text(table, num_beams)
    # Past the end of a text's children stands a child of another one; its code serves, its node does not.
    index = (first[:, None] + places).clamp(max=len(rows) - 1)
    kept = torch.where(places < counts[:, None], children[index], -1)
    own = torch.arange(num_texts, device=rows.device)[:, None] * (len(nodes) // num_texts)
    return Beams(torch.where(kept < 0, own, rows[index]), codes[index], kept, table.gather(1, places))


def best_of_table(tree, nodes, level, scores, log_probabilities, columns, num_texts, num_beams) -> Beams:
    """[`best_children`] out of a table with room for as many children as any node of the level has."""
    codes, children = tree.expand_padded(nodes, level)  # (rows, widest)
    if tree.pending:  # what was added stands behind the rest
        codes, order = codes.sort(dim=1)
        children = children.gather(1, order)
    values = log_probabilities.gather(1, columns(codes, level)) + scores[:, None]
    values = values.masked_fill(children < 0, -torch.inf)
    table, width = values.view(num_texts, -1), codes.shape[1]
    places = best_of_each_text(table, num_beams)
    rows_of_text = torch.arange(num_texts, device=nodes.device)[:, None] * (len(nodes) // num_texts)
    parents = rows_of_text + places // width
    picked = [array.view(num_texts, -1).gather(1, places) for array in (codes, children, values)]
    return Beams(parents, *picked)


def best_of_each_text(table: Tensor, number: int) -> LongTensor:
    """Columns of the `number` highest entries in each row of `table` `(texts, candidates)`, ascending.

    The first ones of equal entries are taken, and all when there are fewer: `(texts, number)`.
    """
    if table.shape[1] <= number:
        return torch.arange(table.shape[1], device=table.device).expand(len(table), -1)
    least = table.topk(number, dim=1).values[:, -1:]
    above, equal = table > least, table == least
    chosen = above | (equal & (equal.cumsum(1) <= number - above.sum(1, keepdim=True)))
    if table.device.type == "cpu":
        return chosen.nonzero()[:, 1].view(-1, number)
    # The same without asking how many there are.
    return (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :number]
