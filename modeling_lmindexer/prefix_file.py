"""The file of a prefix tree: written atomically, and on reading every array checked against the others."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .folder import (
    MANIFEST_NAME,
    CorruptedFolderError,
    reading_again,
    resolve_file,
    update_manifest,
    verify_files,
    write_tensors,
)
from .prefix_arrays import INT32_MAX, LARGEST_CODE, Level, PrefixArrays

PREFIX_TREE_NAME = "prefix_tree.safetensors"
FORMAT_NAME = "prefix_tree"
FORMAT_VERSION = 2
CODE_TYPES = (torch.int16, torch.int32, torch.int64)
RANGES = ("document_starts", "document_ends", "own_ends")


def write_prefix_tree(folder: str | os.PathLike, arrays: PrefixArrays, num_documents: int) -> None:
    """Writes the arrays into `folder`, and lists the file in the folder's manifest if there is one."""
    folder = Path(folder)
    metadata = tree_metadata([level.offset for level in arrays.levels], num_documents)
    tensors = {name: array.cpu().contiguous() for name, array in arrays.tensors().items()}
    write_tensors(folder / PREFIX_TREE_NAME, tensors, metadata)
    if (folder / MANIFEST_NAME).exists():
        update_manifest(folder, [PREFIX_TREE_NAME])


def tree_metadata(offsets: list[int], num_documents: int) -> dict[str, str]:
    """What the file says beside its arrays: what was taken off the codes of each position, and the documents."""
    metadata = {"format": FORMAT_NAME, "version": str(FORMAT_VERSION), "num_documents": str(num_documents)}
    return metadata | {f"offset.{position}": str(offset) for position, offset in enumerate(offsets)}


@reading_again
def read_prefix_tree(name_or_path: str | os.PathLike, memory_map: bool, **hub_kwargs) -> tuple[PrefixArrays, int]:
    """The arrays of a folder or Hub repository, and the number of documents numbered so far.

    Args:
        memory_map: leave the arrays in the file.

    Raises:
        FileNotFoundError: no such folder, repository or file.
        CorruptedFolderError: the file is not the one its manifest lists, or not a prefix tree through and through.
    """
    path = resolve_file(name_or_path, PREFIX_TREE_NAME, **hub_kwargs)
    verify_files([path], resolve_file(name_or_path, MANIFEST_NAME, optional=True, **hub_kwargs))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        checked = checked_arrays(metadata, arrays if memory_map else {n: a.clone() for n, a in arrays.items()})
    except (SafetensorError, ValueError, OSError) as error:
        raise CorruptedFolderError(
            f"{path} is not a complete prefix tree: {error} Download it again, or write it again with "
            "PrefixTree.save_pretrained."
        ) from error
    return checked


def checked_arrays(metadata: dict[str, str], arrays: dict[str, Tensor]) -> tuple[PrefixArrays, int]:
    """The arrays from the content of a file with its metadata, and the number of documents.

    Raises:
        ValueError: what does not hold.
    """
    if metadata.get("format") != FORMAT_NAME or not metadata.get("version", "").isdecimal():
        raise ValueError(f"its metadata is {metadata}, not that of a {FORMAT_NAME}.")
    if int(metadata["version"]) != FORMAT_VERSION:
        raise ValueError(f"its format version is {metadata['version']}, this package reads {FORMAT_VERSION}.")
    depth = sum(name.startswith("codes.") for name in arrays)
    _check_names(arrays, depth)
    offsets = [_number(metadata, f"offset.{position}") for position in range(depth)]
    levels, parents = [], 1
    for position in range(depth):
        level = _checked_level(arrays, position, offsets[position], parents)
        levels.append(level)
        parents = len(level)
    leaf_starts, documents = arrays.get("leaf_starts"), arrays.get("documents")
    fixed = "document_starts.0" not in arrays
    if fixed:
        for position, level in enumerate(levels[1:], start=1):
            if level.starts is not None and (level.starts[1:].diff() < 1).any():
                raise ValueError(f"a node of position {position - 1} has no children, and no sequence ends there.")
        count = _checked_leaves(leaf_starts, parents)
    else:
        count = _checked_ranges(levels, leaf_starts)
    num_documents = _number(metadata, "num_documents")
    _check_documents(documents, count, num_documents)
    return PrefixArrays(levels, leaf_starts, documents, count), num_documents


def _number(metadata: dict[str, str], name: str) -> int:
    value = metadata.get(name, "")
    if not value.isdecimal() or int(value) > LARGEST_CODE:
        raise ValueError(f"its metadata has {name}={value!r}, expected a number.")
    return int(value)


def _check_names(arrays: dict[str, Tensor], depth: int) -> None:
    """Every array is known, and an array that goes with others has them all."""
    known = {f"codes.{position}" for position in range(depth)}
    if "document_starts.0" in arrays:
        known |= {f"{name}.{position}" for name in RANGES for position in range(depth)}
    optional = {f"starts.{position}" for position in range(depth)} | {"leaf_starts", "documents"}
    if depth == 0 or not known <= arrays.keys() <= known | optional:
        raise ValueError(
            f"it holds the arrays {sorted(arrays)}, expected {sorted(known)} and some of {sorted(optional)}."
        )
    for name, array in arrays.items():
        types = CODE_TYPES if name.startswith("codes.") else (torch.int32,)
        if array.ndim != 1 or array.dtype not in types or len(array) == 0 or len(array) > INT32_MAX:
            raise ValueError(f"{name} has shape {tuple(array.shape)} and dtype {array.dtype}.")


def _checked_level(arrays: dict[str, Tensor], position: int, offset: int, parents: int) -> Level:
    codes, starts = arrays[f"codes.{position}"], arrays.get(f"starts.{position}")
    low, high = (int(value) + offset for value in codes.aminmax())
    if low < 0 or high > LARGEST_CODE:
        raise ValueError(f"codes.{position} holds codes from {low} to {high}, expected 0 to 2**62.")
    widest = 1
    if starts is None and len(codes) != parents:
        raise ValueError(
            f"codes.{position} has {len(codes)} codes for {parents} nodes, and there is no starts.{position}."
        )
    if starts is not None:
        counts = starts[1:].diff()
        if len(starts) != parents + 2 or starts[:2].any() or starts[-1] != len(codes) or (counts < 0).any():
            raise ValueError(
                f"starts.{position} does not share out {len(codes)} children among {parents} nodes: found "
                f"{len(starts)} values up to {int(starts[-1])}, expected {parents + 2} that ascend from two 0s."
            )
        widest = int(counts.max())
        first = torch.zeros(len(codes) + 1, dtype=torch.bool)
        first[starts[1:].long()] = True
        if ((codes[1:] <= codes[:-1]) & ~first[1:-1]).any():
            raise ValueError(f"codes.{position} does not ascend among the children of a node.")
    ranges = (arrays.get(f"{name}.{position}") for name in RANGES)
    return Level(codes, starts, offset, low, high, widest, *ranges)


def _checked_leaves(leaf_starts: Tensor | None, leaves: int) -> int:
    """Number of documents of a tree of one length."""
    if leaf_starts is None:
        return leaves
    if len(leaf_starts) != leaves + 1 or leaf_starts[0] != 0 or (leaf_starts.diff() < 1).any():
        raise ValueError(f"leaf_starts does not share out documents among {leaves} leaves.")
    return int(leaf_starts[-1])


def _checked_ranges(levels: list[Level], leaf_starts: Tensor | None) -> int:
    """Number of documents of a tree of several lengths: those of a node are its own, then those of its children."""
    if leaf_starts is not None:
        raise ValueError("it holds leaf_starts and document_starts, of which a tree has one.")
    count = int(levels[0].document_ends[-1])
    # Where the documents of the parents' children begin, and where they end.
    begins, stops = torch.zeros(1, dtype=torch.int32), torch.tensor([count], dtype=torch.int32)
    for position, level in enumerate(levels):
        starts, ends, own = level.document_starts, level.document_ends, level.own_ends
        if not (len(starts) == len(ends) == len(own) == len(level)):
            raise ValueError(f"document ranges of position {position} are not as many as its {len(level)} nodes.")
        offsets = torch.arange(len(begins) + 1) if level.starts is None else level.starts[1:].long()
        bounds = torch.cat([starts, torch.tensor([count], dtype=torch.int32)])
        before = torch.cat([torch.zeros(1, dtype=torch.int32), ends])
        has = offsets.diff() > 0
        first = torch.zeros(len(level) + 1, dtype=torch.bool)
        first[offsets] = True
        sound = (
            (ends > starts).all()
            and ((own >= starts) & (own <= ends)).all()
            and (bounds[offsets[:-1]][has] == begins[has]).all()
            and (before[offsets[1:]][has] == stops[has]).all()
            and (begins[~has] == stops[~has]).all()
            and (starts[1:] == ends[:-1])[~first[1:-1]].all()
        )
        if not sound:
            raise ValueError(f"document ranges of position {position} do not share out those of the position before.")
        begins, stops = own, ends
    if (begins != stops).any():
        raise ValueError("a node of the last position has documents that do not end there.")
    return count


def _check_documents(documents: Tensor | None, count: int, num_documents: int) -> None:
    if documents is None:
        if count > num_documents:
            raise ValueError(f"it has {count} documents, its metadata says {num_documents}.")
        return
    if len(documents) != count or documents.min() < 0 or documents.max() >= num_documents:
        raise ValueError(f"documents has {len(documents)} numbers for {count} documents below {num_documents}.")
    seen = torch.zeros(num_documents, dtype=torch.bool)
    seen[documents.long()] = True
    if int(seen.sum()) != count:
        raise ValueError("documents holds a number more than once.")
