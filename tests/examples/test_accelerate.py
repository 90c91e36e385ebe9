"""The configurations for several processes: accelerate reads them, and two of them start what they say."""

import json
import sys

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from launching import run_group
from test_run_indexing import TINY, write_corpus

from modeling_lmindexer import SemanticIndex

KINDS = {
    "ddp": DistributedType.MULTI_GPU, "deepspeed_zero2": DistributedType.DEEPSPEED, "fsdp2": DistributedType.FSDP,
    "two_cpus": DistributedType.MULTI_GPU,
}  # fmt: skip


def test_accelerate_reads_every_file_and_knows_every_setting(examples_folder):
    files = {path.stem: path for path in (examples_folder / "accelerate").iterdir()}
    assert files.keys() == KINDS.keys()
    for name, path in files.items():
        assert load_config_from_file(str(path)).distributed_type == KINDS[name]
        arguments = launch_command_parser().parse_args(["--config_file", str(path), "script.py"])
        found = _validate_launch_command(arguments)[0]
        chosen = [kind for kind in ("multi_gpu", "use_deepspeed", "use_fsdp") if getattr(found, kind)]
        wanted = {DistributedType.FSDP: "use_fsdp", DistributedType.DEEPSPEED: "use_deepspeed"}
        assert chosen == [wanted.get(KINDS[name], "multi_gpu")]
        assert found.num_processes == (2 if name == "two_cpus" else 8)


@pytest.mark.slow
@pytest.mark.dist
def test_two_cpus_index_as_one_does(examples_folder, tmp_path):
    """Without `--use_cpu`, which a machine without an accelerator does not need."""
    corpus = write_corpus(tmp_path / "corpus.jsonl")
    arguments = [name for name in TINY if name != "--use_cpu"]
    script = [str(examples_folder / "run_indexing.py"), "--train_file", str(corpus), *arguments]
    script += ["--optim", "sgd", "--global_batch_size", "16"]
    config = ["--config_file", str(examples_folder / "accelerate" / "two_cpus.yaml")]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *config]
    for name, command in (("two", launcher), ("one", [sys.executable])):
        folder = tmp_path / name
        run_group([*command, *script, "--output_dir", str(folder)], tmp_path / f"{name}.log", 240)
    two, one = (SemanticIndex.from_pretrained(tmp_path / name) for name in ("two", "one"))
    assert two.semantic_ids == one.semantic_ids and two.document_ids == one.document_ids
    settings = json.loads((tmp_path / "two/stages/settings.json").read_text())
    assert settings["global_batch_size"] == 16
    assert "per_device" not in settings and (tmp_path / "two.log").read_text().count("Model folder:") == 1
