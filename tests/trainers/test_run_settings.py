"""Which settings make a run another run."""

import torch
from tiny_training import make_trainer, tiny_arguments, tiny_indexer

from trainers import SemanticIDTrainingArguments
from trainers.run_settings import RESULT_SETTINGS, run_settings
from trainers.staged_args import StagedTrainingArguments
from trainers.weights_digest import digest_of_weights

# Of our own settings, those that leave the stages of a run as they are: where files go, how often something is said or
# kept, what happens to a folder with a run in it, and what the index makes of the codes when all stages are done.
OTHER_SETTINGS = {
    "collisions", "encoder_cache_dir", "go_on", "logging_dir", "logging_steps", "per_device_eval_batch_size", "project",
    "report_to", "save_strategy", "save_total_limit", "start_over",
}  # fmt: skip


def test_every_setting_of_our_own_is_decided_on():
    own = set(SemanticIDTrainingArguments.__annotations__) | set(StagedTrainingArguments.__annotations__)
    # Together with the number of processes.
    assert own - set(RESULT_SETTINGS) - {"per_device_train_batch_size", "global_batch_size"} == OTHER_SETTINGS
    assert not OTHER_SETTINGS & set(RESULT_SETTINGS)
    assert len(set(RESULT_SETTINGS)) == len(RESULT_SETTINGS)


def test_settings_model_and_documents_are_told_apart(tmp_path):
    def settings_of(model=None, world_size=1, **values):
        trainer = make_trainer(tmp_path, model=model, **values)
        return run_settings(trainer.settings, trainer.model, trainer.documents, world_size)

    first = settings_of()
    assert settings_of() == first == settings_of(encoder_cache_dir="elsewhere", logging_steps=7)
    assert first["ema_decay"] == 0 and first["anchor_weights"] == [0.0] and first["lr_scheduler_type"] == "cosine"

    def changes(**changed):
        found = settings_of(**changed)
        return {name for name in first.keys() | found.keys() if first.get(name) != found.get(name)}

    assert changes(ema_decay=0.5) == {"ema_decay"}
    assert changes(world_size=2) == changes(per_device_train_batch_size=32) == {"global_batch_size"}
    assert changes(model=tiny_indexer(seed=1)) == {"initial_weights"}
    # A temperature to learn is one of the weights.
    assert changes(model=tiny_indexer(learn_temperature=True)) == {"learn_temperature", "initial_weights"}


def test_a_digest_is_of_every_weight_and_what_stands_beside(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3).bfloat16())
    first = digest_of_weights(model)
    assert digest_of_weights(model) == first != digest_of_weights(model, beside="documents")
    model[1].running_mean[2] = 0.5
    assert digest_of_weights(model) != first


def test_other_settings_exist():
    """A name that is gone must not stay in the list."""
    arguments = tiny_arguments("unused")
    assert all(hasattr(arguments, name) for name in (*RESULT_SETTINGS, *OTHER_SETTINGS))
