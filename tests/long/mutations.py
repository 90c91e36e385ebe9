"""Seeded damage to files: bytes, JSON, tensors and tables."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import torch
from safetensors import safe_open
from safetensors.torch import save_file

DEEP = "[" * 20_000 + "]" * 20_000
ODD_TEXTS = ["", "x", "../../x", "\x00", "\ud800", "<script>", "$(rm)", "nan", "7", "\n", "x" * 100_000]
ODD_VALUES = [
    None, True, False, 0, -1, 1, 2, 7, 2**31, 2**63, 10**30, -(10**30), 0.5, -1e308, 1e308, float("nan"),
    float("inf"), [], {}, [[]], [0], [-1], [10**9] * 3, [1, "x"], {"x": 1}, *ODD_TEXTS,
]  # fmt: skip


def damage_bytes(content: bytes, draw: random.Random) -> bytes:
    """Flipped, cut, spliced, repeated, foreign or no bytes."""
    data, size = bytearray(content), max(1, len(content))
    start = draw.randrange(size)
    kind = draw.randrange(8)
    if kind < 2:  # one byte or some
        for _ in range(1 if kind else draw.randint(2, 16)):
            place = draw.randrange(size)
            data[place : place + 1] = bytes([draw.randrange(256)])
    elif kind == 2:
        del data[start:]
    elif kind == 3:
        del data[start : start + draw.randint(1, 64)]
    elif kind == 4:
        data[start:start] = draw.randbytes(draw.randint(1, 64))
    elif kind == 5:
        other = draw.randrange(size)
        data[start:start] = data[other : other + draw.randint(1, 200)]
    elif kind == 6:
        length = draw.randint(1, 64)
        data[start : start + length] = bytes([draw.choice([0, 255])]) * length
    else:
        data = bytearray(draw.choice([b"", b"\x00", b"\xff\xfe", b"null", b"[]", b"{}", content * 2, DEEP.encode()]))
    return bytes(data)


def places_of(value, path=()):
    """Paths to every part of a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places_of(value[key], (*path, key))


def damage_json(content: bytes, draw: random.Random) -> bytes:
    """A value, a type or a key changed, dropped or added; a value nested deeply."""
    value = json.loads(content)
    *path, last = draw.choice([place for place in places_of(value) if place] or [("x",)])
    inside = value
    for key in path:
        inside = inside[key]
    kind = draw.randrange(6)
    if kind == 0:
        del inside[last]
    elif kind == 1 and isinstance(inside, dict):
        inside[draw.choice([f"{last}x", *ODD_TEXTS[:6]])] = inside.pop(last)
    elif kind == 2 and isinstance(inside, dict):
        inside[draw.choice(["x", "__class__", "auto_map", "_name_or_path"])] = draw.choice(ODD_VALUES)
    else:
        inside[last] = "@deep@" if kind == 3 and draw.random() < 0.2 else draw.choice(ODD_VALUES)
    return json.dumps(value).replace('"@deep@"', DEEP).encode()


def damage_tensor(tensor: torch.Tensor, draw: random.Random) -> torch.Tensor:
    """Other values, another type or another shape."""
    tensor, kind = tensor.clone(), draw.randrange(9)
    if kind == 0:
        types = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.int8, torch.bool]
        return tensor.to(draw.choice(types))
    if kind == 1:
        return tensor[: draw.randrange(len(tensor) + 1)].clone() if tensor.ndim else tensor[None]
    if kind == 2:
        return torch.cat([tensor, tensor]) if tensor.ndim else tensor[None]
    if kind == 3:
        return tensor[None].contiguous()
    if kind == 4:
        return torch.zeros(draw.choice([(0,), (1,), (3, 3, 3)]), dtype=tensor.dtype)
    if kind == 5:
        return torch.zeros_like(tensor)
    if tensor.numel():
        values = [float("nan"), float("inf"), -1e30] if tensor.is_floating_point() else [-1, 2**31 - 1, 1]
        value = draw.choice(values)
        if not tensor.is_floating_point() and tensor.dtype != torch.bool:
            value = min(value, torch.iinfo(tensor.dtype).max)
        flat = tensor.view(-1)
        for place in [draw.randrange(tensor.numel())] if kind < 8 else range(tensor.numel()):
            flat[place] = value
    return tensor


def damage_safetensors(path: Path, draw: random.Random) -> None:
    """A tensor or the metadata changed, dropped, renamed or added, in a file that is well formed."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}
    name, kind = draw.choice(sorted(tensors)), draw.randrange(8)
    if kind < 4:
        tensors[name] = damage_tensor(tensors[name], draw)
    elif kind == 4:
        del tensors[name]
    elif kind == 5:
        tensors[draw.choice(["x", f"{name}.1", "codes.9"])] = tensors.pop(name)
    else:
        key = draw.choice(sorted(metadata) or ["x"])
        value = draw.choice(["", "-1", "1e9", "99999999999999999999", "x", "0", "3"])
        metadata = {k: v for k, v in metadata.items() if k != key} | ({key: value} if kind == 6 else {})
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=metadata)


def _other_codes(codes: list, draw: random.Random) -> list:
    row = draw.randrange(len(codes))
    if draw.random() < 0.5:
        codes[row] = draw.choice([None, [], codes[row] * 2, codes[row][:1], codes[row - 1], [-1] * 3, [2**40] * 3])
    else:
        codes[row] = [draw.choice([-1, 0, 1, 10**6, 2**62])] + codes[row][1:]
    return codes


def _other_ids(ids: list, draw: random.Random) -> list:
    row = draw.randrange(len(ids))
    if draw.random() < 0.3:
        return [draw.choice([1.5, True, "x"])] * len(ids)
    ids[row] = draw.choice([None, ids[row - 1], "", "x" * 10_000])
    return ids


def damage_table(path: Path, draw: random.Random) -> None:
    """Ids, codes, columns, rows or metadata changed in a parquet file that is well formed."""
    table = pyarrow.parquet.read_table(path)
    metadata = dict(table.schema.metadata or {})
    columns = {name: table[name].to_pylist() for name in table.column_names}
    kind, name = draw.randrange(7), draw.choice(table.column_names)
    if kind == 0:
        del columns[name]
    elif kind == 1:
        columns = {key: values[: draw.choice([0, 1, len(values) // 2])] for key, values in columns.items()}
    elif kind == 2 and "id" in columns:
        columns["id"] = _other_ids(columns["id"], draw)
    elif kind in (3, 4) and "codes" in columns:
        columns["codes"] = _other_codes(columns["codes"], draw)
    elif kind == 5:
        columns[name] = [draw.choice([1.5, "x", None, [[1]]])] * len(columns[name])
    elif metadata:
        key = draw.choice(sorted(metadata))
        value = draw.choice([b"", b"null", b"[]", b"[0, 0, 0]", b"[-1]", b"[6, 4]", b'"x"', b"1e400", b"\xff", b"{}"])
        metadata[key] = draw.choice([value, b"[99999999999999999999, 4, 16]", b"[2, 2, 2]", DEEP.encode()])
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        columns = {key: values[: min(lengths)] for key, values in columns.items()}
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path)


def damage_file(path: Path, draw: random.Random, others: list[Path]) -> None:
    """One mutation of a file, by its kind; sometimes of its bytes alone, or another file in its place."""
    kind = draw.random()
    well_formed: dict[str, Callable] = {".safetensors": damage_safetensors, ".parquet": damage_table}
    if kind < 0.05 and others:
        path.write_bytes(draw.choice(others).read_bytes())
    elif kind < 0.45 or path.suffix not in (*well_formed, ".json"):
        path.write_bytes(damage_bytes(path.read_bytes(), draw))
    elif path.suffix == ".json":
        path.write_bytes(damage_json(path.read_bytes(), draw))
    else:
        try:
            well_formed[path.suffix](path, draw)
        except (pyarrow.ArrowException, TypeError, OverflowError):  # what no well-formed file can hold
            path.write_bytes(damage_bytes(path.read_bytes(), draw))


def odd_lines(content: bytes, draw: random.Random) -> bytes:
    """Lines of text dropped, doubled, exchanged, grown or in another encoding."""
    lines = content.splitlines(keepends=True)
    place, kind = draw.randrange(len(lines)), draw.randrange(6)
    if kind == 0:
        lines[place] = b"\n" if draw.random() < 0.5 else b""
    elif kind == 1:
        lines.insert(place, lines[draw.randrange(len(lines))])
    elif kind == 2:
        lines[place] = lines[place].replace(
            b"word", draw.choice([b"\xff", b"\x00", b'"', b"x" * 1_000_000, b"\\ud800"])
        )
    elif kind == 3:
        return content.decode().encode(draw.choice(["utf-16", "utf-32", "utf-8-sig"]))
    elif kind == 4:
        lines[place] = b'{"id": 1, "text": ' + DEEP.encode() + b"}\n"
    else:
        lines[place] = draw.choice([b"null\n", b"[]\n", b"1e999\n", b"{}\n", b'{"id": NaN, "text": "x"}\n', b"=1,2\n"])
    return b"".join(lines)
