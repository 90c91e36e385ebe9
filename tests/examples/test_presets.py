"""The configuration files of examples/paper against Tables 8 to 11 of the paper, row by row."""

import pytest
import yaml
from transformers import HfArgumentParser, TrainingArguments

ADAM = {"optim": "adamw_torch", "weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-6}
COMMON = ADAM | {"model_name_or_path": "google-t5/t5-base", "learning_rate": 1e-3}

# file: batch size, epochs, sequence length, codebook size
TABLE_8 = {
    "indexing_amazon_beauty": (128, 30, 512, 512),
    "indexing_amazon_sports": (128, 30, 512, 512),
    "indexing_amazon_toys": (128, 30, 512, 512),
    "indexing_nq320k": (128, 10, 512, 5120),
    "indexing_macro_1m": (128, 5, 128, 51200),
}
# file: batch size, steps, sequence length, beams, learning rates searched
TABLES_9_TO_11 = {
    "recommendation_amazon": (32, 10_000, 1024, 20, [1e-2, 1e-3, 1e-4]),
    "product_search_amazon": (32, 10_000, 1024, 20, [1e-2, 1e-3, 1e-4]),
    "retrieval_nq320k": (2048, 250_000, 32, 20, [5e-4, 1e-3, 5e-3]),
    "retrieval_macro_1m": (2048, 500_000, 32, 20, [5e-4, 1e-3, 5e-3]),
}


def read(folder, name: str) -> dict:
    return yaml.safe_load((folder / "paper" / f"{name}.yaml").read_text())


def test_every_file_is_checked_here(examples_folder):
    assert {path.stem for path in (examples_folder / "paper").iterdir()} == {*TABLE_8, *TABLES_9_TO_11}


@pytest.mark.parametrize("name", TABLE_8)
def test_indexing(examples_folder, name):
    batch_size, epochs, length, size = TABLE_8[name]
    assert read(examples_folder, name) == COMMON | {
        "output_dir": f"outputs/{name}",
        "codebook_sizes": [size, size],
        "hint_ratios": [0.5, 0.3],
        "max_source_length": length,
        "similarity": "dot",
        "code_temperature": 1.0,
        "reconstruction_target": "tokens",
        "contrastive_views": "dropout",
        "contrastive_normalize": False,
        "contrastive_temperature": 1.0,
        "contrastive_weights": [1.0],
        "commitment_weight": 1.0,
        "idf_weights": False,
        "min_document_frequency": 1,
        "max_document_frequency": 1.0,
        "rate_factors": [1.0],
        "discrete_rate_factor": 1.0,
        "dropout": 0.1,
        "num_train_epochs": epochs,
        "continuous_epochs": [epochs],
        "reconstructor_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "learning_rates": [1e-3, 2e-3, 5e-3],
    }


@pytest.mark.parametrize("name", TABLES_9_TO_11)
def test_downstream(examples_folder, name):
    batch_size, steps, length, beams, rates = TABLES_9_TO_11[name]
    assert read(examples_folder, name) == COMMON | {
        "output_dir": f"outputs/{name}",
        "max_source_length": length,
        "num_beams": beams,
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "learning_rates": rates,
    }


@pytest.mark.parametrize("name", [*TABLE_8, *TABLES_9_TO_11])
def test_the_trainer_takes_the_settings_with_their_types(examples_folder, name):
    settings = read(examples_folder, name)
    own = {key: value for key, value in settings.items() if key in TrainingArguments.__dataclass_fields__}
    (arguments,) = HfArgumentParser(TrainingArguments).parse_dict(own)
    assert (arguments.adam_epsilon, arguments.optim) == (1e-6, "adamw_torch")  # YAML reads "1e-6" as text
    assert settings["learning_rate"] in settings["learning_rates"]
    assert all(isinstance(rate, float) for rate in settings["learning_rates"])
