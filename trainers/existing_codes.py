"""Which codes continue an ID that exists: what a loss over existing IDs looks at."""

import torch

from modeling_lmindexer import PrefixTree


def existing_codes(tree: PrefixTree, labels: torch.Tensor, position: int, offset: int, num_codes: int) -> torch.Tensor:
    """The codes that follow each ID's first ones in the tree, as a mask `(batch, num_codes)`.

    Over these alone, the cross-entropies of all positions sum up to that of the ID among all IDs there are: the
    documents compete with each other, and nothing is learned about codes that nobody has.

    Args:
        tree: on the device of `labels`.
        labels: flat ids of existing IDs, `(batch, positions)`.
        position: of the code.
        offset: flat id of its first code.
        num_codes: of its codebook.
    """
    rows, codes, _ = tree.expand(tree.walk(labels[:, :position]), position)
    mask = torch.zeros(len(labels), num_codes, dtype=torch.bool, device=labels.device)
    mask[rows, codes - offset] = True
    return mask
