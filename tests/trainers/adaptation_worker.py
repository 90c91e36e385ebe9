"""One of several processes of `test_adaptation_distributed.py`; writes what it found to `folder/rank<r>.pt`.

RANK=0 WORLD_SIZE=2 .. python adaptation_worker.py folder
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from tiny_adaptation import OBJECTIVES, adaptation_trainer, first_step, tiny_encoder  # noqa: E402


def main() -> None:
    """A step whose result one process can check, and a whole run."""
    folder = Path(sys.argv[1])
    trainer = adaptation_trainer(folder / "run", tiny_encoder("bert", dropout=0.1), **OBJECTIVES["all"])
    figures = trainer.train()
    weights = {name: value.clone() for name, value in trainer.adapted.state_dict().items()}
    found = {"run": (figures, weights), "world_size": dist.get_world_size()}
    found["step"] = first_step(folder / "step", per_device_train_batch_size=8)
    torch.save(found, folder / f"rank{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
