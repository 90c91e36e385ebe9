"""The configurations for several processes: accelerate reads them, and takes them as they are meant."""

from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

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
