"""The children of nodes of a tree in several parts: listed once each, though several parts may have them."""

from dataclasses import dataclass

import torch
from torch import BoolTensor, LongTensor

INT64_MAX = torch.iinfo(torch.int64).max


@dataclass
class Children:
    """Allowed children, one behind the other, in the order of rows and codes.

    Attributes:
        rows, codes: `(children,)`.
        nodes: `(children,)` for every part, -1 where a part does not have the child.
    """

    rows: LongTensor
    codes: LongTensor
    nodes: list[LongTensor]

    @classmethod
    def of_part(cls, part, nodes: LongTensor, level: int, batch_rows: LongTensor | None) -> "Children":
        """Those of `nodes` `(rows,)` of one part, as far as its flags allow."""
        rows, codes, children = part.segment.expand(nodes, level)
        if part.flags is not None and len(rows):
            groups = None if batch_rows is None else batch_rows.index_select(0, rows)
            allowed = part.flags.of_nodes(children, level + 1, groups)
            rows, codes, children = rows[allowed], codes[allowed], children[allowed]
        return cls(rows, codes, [children])


def merged(parts: list[Children], base: int) -> Children:
    """One list of the children of all parts; codes are below `base`."""
    found = parts[0]
    for part in parts[1:]:
        found = _merged_pair(found, part, base)
    return found


def _merged_pair(many: Children, few: Children, base: int) -> Children:
    """Both in one; sorting anew would cost more than finding the place of every one of the few."""
    codes = many.codes, few.codes
    rows = int(max((own.rows[-1] for own in (many, few) if len(own.rows)), default=0)) + 1
    if rows * base > INT64_MAX:
        ranks = torch.cat(codes).unique(return_inverse=True)[1]
        codes, base = ranks.split([len(many.codes), len(few.codes)]), len(ranks)
    keys, wanted = many.rows * base + codes[0], few.rows * base + codes[1]
    places = torch.searchsorted(keys, wanted)
    if len(keys):
        known = keys[places.clamp(max=len(keys) - 1)] == wanted
    else:
        known = torch.zeros_like(wanted, dtype=torch.bool)
    fresh = places[~known]
    total = len(keys) + len(fresh)
    # A child of the many moves back by one for each fresh one before it.
    moved = torch.bincount(fresh, minlength=len(keys) + 1)[: len(keys)].cumsum(0)
    moved += torch.arange(len(keys), device=keys.device)
    inserted = fresh + torch.arange(len(fresh), device=keys.device)

    def placed(of_many: LongTensor, of_few: LongTensor) -> LongTensor:
        values = of_many.new_full((total,), -1)
        values[moved] = of_many
        values[inserted] = of_few
        return values

    nodes = [placed(own, torch.full_like(fresh, -1)) for own in many.nodes]
    twins = torch.full_like(keys, -1)
    twins[places[known]] = few.nodes[0][known]
    nodes.append(placed(twins, few.nodes[0][~known]))
    return Children(placed(many.rows, few.rows[~known]), placed(many.codes, few.codes[~known]), nodes)


def merged_padded(
    parts, split: list[LongTensor], level: int, batch_rows: LongTensor | None
) -> tuple[LongTensor, list[LongTensor]]:
    """Codes `(rows, columns)`, and for every part nodes `(rows, columns)`, -1 where there is no child.

    The columns of the parts stand beside each other; a child that an earlier part has is left out of the later one.
    """
    all_codes, all_nodes = [], []  # of every part: codes and, part by part, nodes
    for i, (part, own) in enumerate(zip(parts, split, strict=True)):
        codes, children = _padded(part, own, level, batch_rows)
        nodes = [torch.full_like(children, -1) for _ in parts]
        for j in range(i):
            twins = _twins(parts[j], split[j], codes, level, batch_rows)
            twins = torch.where(children >= 0, twins, -1)
            _note(all_nodes[j], i, j, twins, children)
            children = torch.where(twins >= 0, -1, children)
        nodes[i] = children
        all_codes.append(codes)
        all_nodes.append(nodes)
    return torch.cat(all_codes, 1), [torch.cat([nodes[i] for nodes in all_nodes], 1) for i in range(len(parts))]


def _twins(part, nodes: LongTensor, codes: LongTensor, level: int, batch_rows: LongTensor | None) -> LongTensor:
    """Allowed children of `nodes` `(rows,)` of a part with `codes` `(rows, columns)`, -1 for none."""
    columns = codes.shape[1]
    found = part.segment.find_children(
        nodes.repeat_interleave(columns, output_size=codes.numel()), codes.view(-1), level
    )
    found = found.view(codes.shape)
    return torch.where((found >= 0) & allowed_padded(part, found.clamp(min=0), level, batch_rows), found, -1)


def _note(nodes: list[LongTensor], later: int, earlier: int, twins: LongTensor, children: LongTensor) -> None:
    """Writes the `later` part's `children` beside the earlier part's `twins` of them; all `(rows, columns)`."""
    own = nodes[earlier]  # (rows, columns of the earlier part), children of a row one behind the other
    if own.shape[1] == 0 or twins.shape[1] == 0:
        return
    steps = torch.arange(own.shape[1], device=own.device)
    first = torch.where(own >= 0, own - steps, -1).amax(1, keepdim=True)
    beyond = own.shape[1]  # a column to write what has no twin to
    columns = torch.where(twins >= 0, (twins - first).clamp(0, beyond), beyond)
    noted = torch.nn.functional.pad(nodes[later], (0, 1), value=-1)
    nodes[later] = noted.scatter_(1, columns, torch.where(twins >= 0, children, -1))[:, :beyond]


def _padded(part, nodes: LongTensor, level: int, batch_rows: LongTensor | None) -> tuple[LongTensor, LongTensor]:
    codes, children, inside = part.segment.padded(nodes, level)
    return codes, torch.where(inside & allowed_padded(part, children, level, batch_rows), children, -1)


def allowed_padded(part, children: LongTensor, level: int, batch_rows: LongTensor | None) -> BoolTensor:
    """Flags of `children` `(rows, columns)` on `level + 1`."""
    if part.flags is None or level >= part.segment.depth:
        return torch.ones_like(children, dtype=torch.bool)
    return part.flags.of_nodes(children, level + 1, None if batch_rows is None else batch_rows[:, None])
