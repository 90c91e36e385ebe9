"""Processes that wait for each other before they leave."""

import sys

import pytest
from accelerate import PartialState
from launching import free_port, run_group

from trainers.leave_together import leave_together

SCRIPT = """
import sys, time
from pathlib import Path
import torch.distributed as dist
from accelerate import PartialState
from trainers.leave_together import leave_together

state, report = PartialState(cpu=True), Path(sys.argv[1])
if state.is_main_process:
    time.sleep(2)
    report.write_text("done")
leave_together()
assert report.exists(), "left before the main process was done"
assert not dist.is_initialized()
"""


@pytest.mark.dist
def test_no_process_leaves_before_the_main_one_is_done(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    script = [str(tmp_path / "script.py"), str(tmp_path / "report")]
    run_group([*launcher, "--master_port", str(free_port()), *script], tmp_path / "log", 120)


def test_one_process_just_leaves():
    leave_together()
    assert PartialState().num_processes == 1
