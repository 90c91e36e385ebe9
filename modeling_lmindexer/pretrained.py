"""Initialisation, loading and saving of an indexer: what every `from_pretrained` and `save_pretrained` checks."""

import json
import math
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.generation import GenerationConfig

from .codebooks import Codebook, DisambiguationHead
from .configuration_lmindexer import LEAST_TEMPERATURE, LMIndexerConfig
from .decoder import ZeroLinear
from .folder import (
    MANIFEST_NAME,
    CorruptedFolderError,
    read_manifest,
    reading_content,
    resolve_file,
    update_manifest,
    verify_files,
)
from .hub import joined_manifest
from .reconstructor import Reconstructor

_SETTINGS = ("config.json", "generation_config.json")
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "subfolder", "force_download")


class LMIndexerPreTrainedModel(PreTrainedModel):
    """Initialisation and loading of [`LMIndexerForSemanticID`]."""

    config: LMIndexerConfig
    config_class = LMIndexerConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["T5Block", "CrossAttendingLayer"]
    _keys_to_ignore_on_load_unexpected = [r"^reconstructor\."]
    hub_kwargs: dict = {}  # what it was loaded with, for the index beside it

    def post_init(self) -> None:
        """As in transformers; the layers that a device or a shard takes whole are those that this model has, for FSDP
        refuses names of others. Not the token embeddings, which the reconstructor reads as well."""
        super().post_init()
        embeddings = self.get_input_embeddings()
        layers = [module for module in self.modules() if all(part is not embeddings for part in module.modules())]
        self._no_split_modules = set(self._no_split_modules) & {type(layer).__name__ for layer in layers}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        elif isinstance(module, Codebook):
            init.normal_(module.weight)
            init.zeros_(module.initialized)
            init.constant_(module.norm, module.weight.shape[1] ** 0.5)
            if module.log_temperature is not None:
                init.constant_(module.log_temperature, math.log(module.start_temperature - LEAST_TEMPERATURE))
        elif isinstance(module, DisambiguationHead):
            init.zeros_(module.weight)
        elif isinstance(module, Reconstructor):
            init.normal_(module.start, std=self.config.initializer_range)
            init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """As in transformers; the files are compared with the folder's manifest first.

        With `config=LMIndexerConfig(...)`, the folder may also be that of a plain T5: the start of a new indexer.

        Raises:
            CorruptedFolderError: a file is truncated, or differs from the manifest.
            ValueError: a plain checkpoint whose weights have other names than the backbone's.
        """
        hub_kwargs = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        name = pretrained_model_name_or_path
        manifest = resolve_file(name, MANIFEST_NAME, optional=True, **hub_kwargs) if name is not None else None
        if manifest is not None:
            listed = read_manifest(manifest)["files"]
            weights = [n for n in listed if n.startswith("model") and n.endswith((".safetensors", ".index.json"))]
            verify_files(
                [resolve_file(name, n, **hub_kwargs) for n in [*_SETTINGS, *weights] if n in listed], manifest
            )
        config = kwargs.get("config")
        is_plain = name is not None and isinstance(config, LMIndexerConfig) and not is_indexer(name, **hub_kwargs)
        if is_plain and kwargs.get("generation_config") is None:
            kwargs["generation_config"] = id_generation_config(config)  # the checkpoint's own is for text
        with_report = kwargs.pop("output_loading_info", False)
        if not is_plain:
            check_generation_config(name, **hub_kwargs)
            kwargs.setdefault("use_safetensors", True)  # no pickle, also where there are no other weights
        try:
            model, report = super().from_pretrained(name, *model_args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise CorruptedFolderError(
                f"The weights in {name} cannot be read ({error}): the file is truncated or no safetensors file. "
                "Download or write the folder again."
            ) from error
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise CorruptedFolderError(
                f"The weights in {name} have other shapes than its config.json says. Download or write the folder "
                "again."
            ) from error
        model.hub_kwargs = hub_kwargs
        check_finite(model, name)
        if is_plain and (missing := [key for key in report["missing_keys"] if key.startswith("backbone.")]):
            raise ValueError(
                f"{name} lacks {len(missing)} weights of the backbone, such as {sorted(missing)[0]!r}: use "
                "LMIndexerForSemanticID.from_backbone(...)."
            )
        return (model, report) if with_report else model

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """As in transformers; the code goes along for users without this package, and the manifest stays true."""
        # transformers fills in AutoConfig and one model class: that of `register_for_auto_class`, or of the last load.
        self.config.auto_map = dict.fromkeys(
            ("AutoModel", "AutoModelForSeq2SeqLM"), f"modeling_lmindexer.{type(self).__name__}"
        )
        # Imported here: transformers' pipelines take a while. And the copy of the code takes them along.
        from .pipelines import custom_pipelines

        self.config.custom_pipelines = custom_pipelines()
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            del self.config.custom_pipelines  # of the folder, see LMIndexerConfig
        folder = Path(save_directory)
        if kwargs.get("is_main_process", True) and (folder / MANIFEST_NAME).exists():
            written = ("model", "config.json", "generation_config.json")
            files = [p.name for p in folder.iterdir() if p.is_file()]
            update_manifest(folder, [n for n in files if n.startswith(written) or n.endswith(".py")])

    def _upload_modified_files(self, working_dir, repo_id, *args, token=None, revision=None, **kwargs):
        """The last step of `push_to_hub`: a manifest that the repository has goes along, with the new files in it."""
        manifest = joined_manifest(working_dir, repo_id, token, revision)
        if manifest is not None:
            (Path(working_dir) / MANIFEST_NAME).write_bytes(manifest)
        return super()._upload_modified_files(working_dir, repo_id, *args, token=token, revision=revision, **kwargs)


def check_generation_config(name_or_path: str | os.PathLike | None, **hub_kwargs) -> None:
    """Raises CorruptedFolderError for settings of `generate` that transformers would stumble over."""
    path = None
    if name_or_path is not None:
        path = resolve_file(name_or_path, "generation_config.json", optional=True, **hub_kwargs)
    if path is not None:
        with reading_content(path, "Download or write the folder again."):
            GenerationConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))


def check_finite(model: nn.Module, name_or_path: str | os.PathLike | None) -> None:
    """Raises CorruptedFolderError for weights that are not numbers."""
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and weight.device.type != "meta" and not weight.isfinite().all():
            raise CorruptedFolderError(
                f"The weights in {name_or_path} are damaged: {name} holds values that are not finite. Download or "
                "write the folder again."
            )


def is_indexer(name_or_path: str | os.PathLike, **hub_kwargs) -> bool:
    """Whether a checkpoint is that of an indexer, and not of a plain language model."""
    return PreTrainedConfig.get_config_dict(name_or_path, **hub_kwargs)[0].get("model_type") == "lmindexer"


def id_generation_config(config: LMIndexerConfig) -> GenerationConfig:
    """What `generate` does by default: one ID per text."""
    return GenerationConfig(
        max_new_tokens=config.id_length,
        decoder_start_token_id=config.decoder_start_token_id,
        pad_token_id=config.pad_token_id,
    )
