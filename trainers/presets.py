"""Named settings: the paper's, and those that gave the best IDs in this project's own comparison."""

# Arguments by name, of the model and of the trainer together; a value given beside a preset wins.
PRESETS = {
    # Section 4.1, appendix A.3 and Tables 8 to 10 of the paper, where they agree; `examples/paper/` has one
    # file per data set. Eq. 1 to 11 as they stand: products, tokens, every loss with weight 1, k-means.
    "paper": {
        "similarity": "dot",
        "code_temperature": 1.0,
        "reconstruction_target": "tokens",
        "pooled_input": False,
        "dropout": 0.1,
        "hint_ratios": [0.5, 0.3],
        "contrastive_views": "dropout",
        "contrastive_normalize": False,
        "contrastive_temperature": 1.0,
        "contrastive_weights": [1.0],
        "commitment_weight": 1.0,
        "anchor_weights": [0.0],
        "code_choice": ["most_likely"],
        "choice_weight": 0.0,
        "codebook_init": ["kmeans"],
        "idf_weights": False,
        "min_document_frequency": 1,
        "max_document_frequency": 1.0,
        "learning_rate": 1e-3,
        "rate_factors": [1.0],
        "discrete_rate_factor": 1.0,
        "num_train_epochs": 30,
        "continuous_epochs": [30.0],
        "reconstructor_epochs": 30,
        "per_device_train_batch_size": 128,
        "weight_decay": 0.0,
        "adam_epsilon": 1e-6,
    },
    # For a good sentence encoder that stays as it is: content words as a bag, similarities anchored to what a document
    # shares with neighbours of other brands, then to what sets it apart from its prefix; first codes from small
    # clusters, expectation maximisation, a last position that spreads what is nearly equal: docs/id_quality.md.
    "best": {
        "similarity": "cosine",
        "reconstruction_target": "words",
        "num_decoder_layers": 2,
        "dropout": 0.0,
        "freeze_encoder": True,
        "hint_ratios": [0.0],
        "contrastive_weights": [0.0, 0.0, 12.0],
        "commitment_weight": 0.2,
        "anchor_weights": [1.0, 1.0, 0.1],
        "anchor_lexical_weight": 0.7,
        "anchor_smoothing": [2, 1, 0],
        "anchor_residuals": True,
        "neighbours_across_excluded": True,
        "num_neighbours": 5,
        "code_choice": ["expectation", "expectation", "balanced"],
        "balance_smoothness": 0.5,
        "choice_weight": 1.0,
        "likelihood_weight": 5.0,
        "codebook_init": ["micro", "kmeans"],
        "micro_share": 0.6,
        "learning_rate": 5e-4,
        "rate_factors": [1.0, 2.0],
        "discrete_rate_factor": 1.0,
        "num_train_epochs": 3,
        "continuous_epochs": [6.0],
        "reconstructor_epochs": 1,
        "per_device_train_batch_size": 128,
    },
}


def preset(name: str) -> dict:
    """A copy of the settings of that name.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return {key: list(value) if isinstance(value, list) else value for key, value in PRESETS[name].items()}
