"""Recommenders of the next item that read item ids alone (FDSA: and features), from the libraries that have them.

    python3.11 -m venv rivals && rivals/bin/pip install -r benchmarks/requirements-rivals.txt
    rivals/bin/python benchmarks/sequential_rivals.py --model sasrec --preset scientific \
        --sequences_file sequences.txt.gz --output_dir outputs/sasrec
    python benchmarks/downstream.py record --set scientific --runs SASRec=outputs/sasrec

Each learns from all but the last two items of every user. The epoch is chosen on the last but one, as are the settings
of `sequential_rivals.yaml`; then every user's last item is ranked among all that the user has not had, after a history
with the validation item, by the same weights. `run.test.trec`, `run.dev.trec` and `metrics.json` are left in the
folder; a finished folder is not computed again. They need another numpy than this project.
"""

import argparse
import gzip
import json
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from sequential.protocol import CHOSEN_BY, Sequences, figures_of, learn, rankings_of, read_sequences
from sequential.recbole_rivals import FDSASettings, GRU4RecSettings, HGNSettings, RecBoleRival
from sequential.rectools_rivals import MaskedSettings, RecToolsRival, TransformerSettings

from metrics.ranking_quality import write_run

SETTINGS = {
    "sasrec": TransformerSettings, "bert4rec": MaskedSettings,
    "gru4rec": GRU4RecSettings, "hgn": HGNSettings, "fdsa": FDSASettings,
}  # fmt: skip
PRESETS = Path(__file__).with_suffix(".yaml")


def settings_of(model: str, preset: str | None, pairs: list[str]):
    """The model's settings: its defaults, then those of a preset, then `name=value` with values in YAML."""
    values = {}
    if preset is not None:
        presets = yaml.safe_load(PRESETS.read_text())
        if model not in presets.get(preset, {}):
            raise ValueError(f"--preset {preset}: {PRESETS.name} has none for {model}; it has {', '.join(presets)}")
        values |= presets[preset][model]
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ValueError(f"--settings {' '.join(wrong)}: expected name=value")
    values |= {name: yaml.safe_load(value) for name, _, value in (pair.partition("=") for pair in pairs)}
    known = asdict(SETTINGS[model]())
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"{model} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    return SETTINGS[model](**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def read_features(file: str) -> dict[str, dict[str, list[str]]]:
    """What FDSA may read of items, by id: `categories`, `brand`, and the words of the `title`.

    Args:
        file: an object per line, also as .gz.
    """
    features: dict[str, dict[str, list[str]]] = {"categories": {}, "brand": {}, "title": {}}
    with (gzip.open if file.endswith(".gz") else open)(file, "rt", encoding="utf-8") as lines:
        for item in map(json.loads, lines):
            name = str(item["id"])
            features["categories"][name] = item.get("categories") or []
            features["brand"][name] = [item["brand"]] if item.get("brand") else []
            features["title"][name] = (item.get("title") or "").lower().split()
    return features


def make_rival(options: argparse.Namespace, settings, sequences: Sequences):
    """The recommender, with the histories to learn from."""
    histories = sequences.before(2)
    if isinstance(settings, TransformerSettings):
        return RecToolsRival(options.model, histories, settings, options.seed)
    features = {}
    if options.model == "fdsa":
        if options.items_file is None:
            raise ValueError("--model fdsa reads features of items: give --items_file")
        features = read_features(options.items_file)
    return RecBoleRival(options.model, histories, settings, options.seed, features)


def run(options: argparse.Namespace) -> dict:
    """Trains, ranks and writes, unless the folder has it; returns what `metrics.json` says."""
    settings = settings_of(options.model, options.preset, options.settings)
    asked = {"model": options.model, "settings": asdict(settings), "seed": options.seed}
    asked |= {"epochs": options.epochs, "patience": options.patience}
    asked |= {"sequences_file": options.sequences_file, "items_file": options.items_file}
    asked = json.loads(json.dumps(asked))
    folder = Path(options.output_dir)
    done = folder / "metrics.json"
    if done.exists():
        found = json.loads(done.read_text())
        if found["asked"] != asked:
            raise ValueError(f"{folder} has a run with other settings: choose another --output_dir")
        return found
    folder.mkdir(parents=True, exist_ok=True)
    started = time.process_time()
    sequences = read_sequences(options.sequences_file)
    rival = make_rival(options, settings, sequences)
    curve = learn(rival, sequences, options.epochs, options.patience, _report)
    figures = {}
    for split, last in (("dev", 2), ("test", 1)):
        rankings = rankings_of(rival, sequences, last)
        write_run(folder / f"run.{split}.trec", rankings, None, options.model)
        figures[split] = figures_of(rankings, sequences.answers(last))
    best = max(curve, key=lambda point: point[CHOSEN_BY])["epoch"]
    found = {"asked": asked, "figures": figures, "epoch": best, "minutes": (time.process_time() - started) / 60}
    temporary = folder / "metrics.json.part"
    temporary.write_text(json.dumps(found | {"curve": curve}, indent=2) + "\n")
    temporary.replace(done)
    return found


def _report(point: dict) -> None:
    print(" ".join(f"{name} {value:.4f}" if name != "epoch" else f"epoch {value}" for name, value in point.items()),
          flush=True)  # fmt: skip


def main() -> None:
    """Parses the arguments, runs and prints the figures of the test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SETTINGS, required=True)
    parser.add_argument("--sequences_file", required=True, help="user item item ..., oldest first, a line per user")
    parser.add_argument("--items_file", help="for fdsa: .jsonl or .jsonl.gz with id, categories, brand, title")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--preset", help=f"settings that {PRESETS.name} has for a data set")
    parser.add_argument("--settings", nargs="*", default=[], metavar="NAME=VALUE", help="over those of the preset")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=100, help="at most")
    parser.add_argument("--patience", type=int, default=8, help="epochs without a better one, after which it ends")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module=r"(pydantic|pytorch_lightning|rectools|recbole)\b.*")
    try:
        found = run(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    print(f"epoch {found['epoch']}, {found['minutes']:.1f} minutes of a processor; test:", end=" ")
    print(", ".join(f"{name} {value:.4f}" for name, value in found["figures"]["test"].items()))


if __name__ == "__main__":
    main()
