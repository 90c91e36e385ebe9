"""The studies on a tiny corpus: runs, resumption, tables, figures; and what the real configuration says."""

import importlib
import json
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from tiny_training import tiny_corpus, tiny_indexer, tiny_tokenizer

from modeling_lmindexer import LMIndexerConfig

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SETTINGS = {
    "reconstructor_epochs": 1, "continuous_epochs": [1], "num_train_epochs": 1, "per_device_train_batch_size": 16,
    "min_document_frequency": 1, "max_document_frequency": 1.0, "freeze_encoder": True, "learning_rate": 0.02,
}  # fmt: skip
PLAN = {
    "sets": {"tiny": {"file": "items.jsonl", "max_length": 32}},
    "settings": {},
    "families": {
        "best": {"preset": "best", "exclude": True, "settings": SETTINGS},
        "paper": {"preset": "paper", "exclude": False, "settings": SETTINGS},
    },
    "seeds": [0],
    "curves": {"every": 2, "reconstruction_documents": 20, "code_documents": 40},
    "margin": 0.02,
    "runs": {
        "one": {"codebook_sizes": [6]},
        "two": {"after": "one", "codebook_sizes": [6, 4], "families": ["best"]},
        "no commitment": {"after": "one", "codebook_sizes": [6, 4], "commitment_weight": 0, "families": ["best"]},
        "no warm-up": {"codebook_sizes": [6], "epochs": {"reconstructor": "continuous"}, "families": ["best"]},
    },
    "studies": {
        "warm-up": {
            "title": "Warm-up", "runs": ["one", "no warm-up"], "columns": ["reconstruction_f1_1", "ami_1"],
            "claims": [{"figure": "reconstruction_f1_1", "of": "one", "above": "no warm-up"}],
            "curves": {"stages": ["1-continuous", "1-discrete"], "figures": ["reconstruction_f1"]},
        },
        "commitment": {
            "title": "Commitment", "runs": ["two", "no commitment"], "columns": ["kept_1_at_2", "ami_within_2"],
            "claims": [{"figure": "kept_1_at_2", "of": "two", "above": "no commitment"}], "bars": ["kept_1_at_2"],
        },
        "duplicates": {
            "title": "Duplicates", "runs": ["one", "two"], "columns": ["distinct", "below_5"],
            "claims": [{"figure": "below_5", "of": "two", "above": 0.5}], "density": True,
        },
        "categories": {
            "title": "Categories", "runs": ["one"], "columns": ["ami_1"], "claims": [], "categories": True,
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The benchmarks' folder on the path, as the script has it."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(BENCHMARKS)
    yield
    patch.undo()


def module(name: str):
    return importlib.import_module(name)


@pytest.fixture
def run(monkeypatch, capsys):
    """The script with arguments, and what it prints; where it must fail, its last words."""

    def call(folder, *arguments, ok: bool = True) -> str:
        common = ["--config", folder / "plan.yaml", "--output_dir", folder / "out", "--data", folder]
        monkeypatch.setattr(sys, "argv", ["id_studies.py", *map(str, [*arguments, *common])])
        if ok:
            module("id_studies").main()
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as left:
            module("id_studies").main()
        return str(left.value)

    return call


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Corpus, encoder and plan."""
    folder = tmp_path_factory.mktemp("studies")
    rows = [row | {"brand": row["text"].split()[0]} for row in tiny_corpus()]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    tiny_indexer("bert").backbone.save_pretrained(folder / "encoder")
    tiny_tokenizer().save_pretrained(folder / "encoder")
    return folder


def test_runs_tables_figures(prepared, run):
    train = ("run", "--encoder", prepared / "encoder")
    first = run(prepared, *train, "--study", "duplicates", "--family", "best")
    assert "1/2 tiny-best-one-0: " in first and "2/2 tiny-best-two-0: " in first and "of a processor" in first
    path = prepared / "out" / "results.jsonl"
    written = path.read_bytes()
    assert len(written.splitlines()) == 2
    # A run that others would have gone on from is trained again, and leaves no second row; what a stop cut off is not
    # there.
    path.write_bytes(written + b'{"kind": "stu')
    rest = run(prepared, *train)
    assert "1/3" in rest and "tiny-best-one" not in rest and "tiny-paper-one" in rest
    rows = module("quality.rows").Results(prepared / "out").rows()
    assert path.read_bytes().startswith(written) and len(rows) == 5
    assert run(prepared, *train) == ""
    assert not list((prepared / "out" / "runs").glob("*/stages")), "states that nobody needs any more"

    by_name = {(row["family"], row["method"]): row for row in rows}
    codes = {
        name: np.load(prepared / "out" / "runs" / f"tiny-{name}-0" / "codes.npy")
        for name in ("best-one", "best-two", "best-no_commitment")
    }
    for name in ("best-two", "best-no_commitment"):
        np.testing.assert_array_equal(codes[name][:, 0], codes["best-one"][:, 0])
    two = by_name["best", "two"]
    assert two["curves"]["2-discrete"] != by_name["best", "no commitment"]["curves"]["2-discrete"]
    assert set(two["curves"]) == {"0-reconstructor", "1-continuous", "1-discrete", "2-continuous", "2-discrete"}
    assert two["curves"]["1-discrete"] == by_name["best", "one"]["curves"]["1-discrete"]
    assert by_name["best", "no commitment"]["figures"]["ami_1"] == two["figures"]["ami_1"]
    assert two["documents"] == 60 and two["encoder"] == "encoder" and two["minutes"] > 0

    printed = run(prepared, "tables")
    kept = [by_name["best", name]["figures"]["kept_1_at_2"] for name in ("two", "no commitment")]
    line = next(line for line in printed.splitlines() if "kept_1_at_2 of two above that of no commitment" in line)
    assert [cell.strip() for cell in line.split("|")][2:5] == ["best", *(f"{value:.3f}" for value in kept)]
    claims = [line.split("|")[2].strip() for line in printed.splitlines() if "below_5 of two above 0.5" in line]
    assert claims == ["best"], "nothing is claimed of a run that a family does not have"
    assert "5 runs in" in printed and "Done on cpu." in printed
    drawn = [Path(line) for line in run(prepared, "figures").splitlines()]
    names = ["warm-up", "commitment", "duplicates", "categories_best", "categories_paper"]
    assert [file.name for file in drawn] == [f"tiny_{name}.png" for name in names]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn)


def test_wrong_arguments(prepared, run):
    for option, what in (("--study", "study"), ("--family", "family"), ("--set", "data set")):
        assert f"There is no {what} other; there are " in run(prepared, "tables", option, "other", ok=False)


def found(**figures):
    """Rows of one family; `figures`: of a run, a value of `x` per seed."""
    rows = {("f", run): [{"figures": {"x": value}} for value in values] for run, values in figures.items()}
    return module("studies.tables").Found(rows)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1.0], [0.9], "yes"), ([0.9], [1.0], "no"), ([1.0], [0.985], "too small"), ([0.0], [0.0], "too small"),
        ([1.0, 1.0], [0.9, 0.8], "yes"), ([1.0, 1.0], [0.9, 1.1], "too small"), ([-1.0], [-2.0], "yes"),
        ([], [1.0], "not run"), ([1.0], [], "not run"), ([1.0, 1.0], [0.9], "not run"), ([None], [0.9], "not run"),
    ],
)  # fmt: skip
def test_verdicts(left, right, expected):
    claim = module("studies.plan").Claim("x", "a", "b")
    assert module("studies.tables").verdict(claim, found(a=left, b=right), "f", 0.02) == expected


def test_claims_about_numbers():
    claim = module("studies.plan").Claim("x", "a", 0.5)
    verdict = module("studies.tables").verdict
    assert [verdict(claim, found(a=[value]), "f", 0.02) for value in (0.6, 0.4, 0.5)] == ["yes", "no", "too small"]
    assert str(claim) == "x of a above 0.5"


def test_curves_go_on_where_the_stage_before_ended():
    def points(steps, name):
        return [{"step": step, name: float(step)} for step in steps]

    curves = {"0-reconstructor": points([0, 3], "y"), "1-continuous": points([0, 4], "x")}
    curves |= {"1-discrete": points([0, 2, 5], "x"), "2-discrete": points([0, 7], "x")}
    curve = module("studies.drawing").curve
    row = {"curves": curves}
    assert curve(row, ["1-continuous", "1-discrete"], "x") == ([3, 7, 7, 9, 12], [0, 4, 0, 2, 5])
    assert curve(row, ["2-discrete"], "x") == ([0, 7], [0, 7])
    assert curve({"curves": {"0-reconstructor": [], "1-discrete": points([0, 4], "x")}}, ["1-discrete"], "x")[0] == [
        0,
        4,
    ]


def test_wrong_plans(tmp_path):
    plan = module("studies.plan")
    for change, message in (
        ({"runs": PLAN["runs"] | {"two": {"after": "zero"}}}, "go on after zero"),
        ({"studies": {"s": PLAN["studies"]["warm-up"] | {"runs": ["one", "nine"]}}}, "names nine, no warm-up"),
    ):
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN | change))
        with pytest.raises(plan.PlanError, match=message):
            plan.read_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ({}, (1, [2, 5], 3)),
        ({"reconstructor": "continuous"}, (0, [3, 5], 3)),
        ({"continuous": "discrete"}, (1, [0, 0], 5)),
        ({"reconstructor": "continuous", "continuous": "discrete"}, (0, [0, 0], 6)),
    ],
)
def test_epochs_move(moves, expected):
    names = ("reconstructor_epochs", "continuous_epochs", "num_train_epochs")
    settings = dict(zip(names, (1, [2, 5], 3), strict=True)) | {"seed": 7}
    found = module("studies.plan").moved_epochs(settings, moves)
    assert found == dict(zip(names, expected, strict=True)) | {"seed": 7}


def test_the_configuration():
    """Every run has settings that exist, and as many steps as the one it is compared with."""
    plan = module("studies.plan").read_plan(BENCHMARKS / "id_studies.yaml")
    runs = {
        (run.family, run.name): run
        for run in plan.runs_of("scientific", list(plan.studies), list(plan.families), plan.seeds)
    }
    known = {entry.name for entry in fields(LMIndexerConfig)}
    assert all(set(run.of_model) <= known for run in runs.values())
    labels = [run.label for run in runs.values()]
    assert len(set(labels)) == len(labels)
    assert all(labels.index(run.after.label) < labels.index(run.label) for run in runs.values() if run.after)
    for (family, name), run in runs.items():
        settings = SimpleNamespace(**run.settings)
        epochs = settings.reconstructor_epochs + settings.continuous_epochs[0] + settings.num_train_epochs
        whole = runs[family, "one position"].settings
        assert epochs == whole["reconstructor_epochs"] + whole["continuous_epochs"][0] + whole["num_train_epochs"], (
            name
        )
