"""The end of a script that runs on several processes."""

from accelerate import PartialState


def leave_together() -> None:
    """Waits until all processes are done, and closes what connects them; on one process nothing happens.

    A process that leaves while this is open may abort in torch's threads, and a launcher then ends the others in the
    midst of their work: the main one, which still writes its report.
    """
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()
