"""The counts of the paper's Tables 6 and 7, named as the converters name theirs."""


def _amazon(items: int, users: int, queries: tuple[int, int, int], labels: tuple[int, int, int]) -> dict[str, int]:
    counts = {"items": items, "documents": items, "users": users}
    histories = (5 * users, users, users)
    for name, row in (("histories", histories), ("queries", queries), ("labels", labels)):
        counts |= {f"{split} {name}": count for split, count in zip(("train", "dev", "test"), row, strict=True)}
    return counts


PAPER = {
    "Amazon-Beauty": _amazon(12_101, 22_363, (1_049, 150, 338), (1_907, 268, 582)),
    "Amazon-Sports": _amazon(18_357, 35_598, (1_299, 186, 443), (2_209, 311, 764)),
    "Amazon-Toys": _amazon(11_924, 19_412, (1_010, 145, 351), (1_653, 250, 594)),
    "NQ320k": {
        "documents": 109_739, "train queries": 307_373, "test queries": 7_830,
        "train labels": 307_373, "test labels": 7_830,
    },
    "MACRO-1M": {
        "documents": 1_000_000, "train queries": 502_939, "test queries": 6_980, "test_dl queries": 93,
        "train labels": 532_751, "test labels": 7_437, "test_dl labels": 1_069,
    },
}  # fmt: skip
