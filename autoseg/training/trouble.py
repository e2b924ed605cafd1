"""What went wrong in a training, told with names.

A loss or weights that are not numbers: which cases were in the batch, how to look at it, and what is still healthy. Cases
that could not be read: how many, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoseg.errors import AutosegError
from autoseg.files import write_document
from autoseg.logs import Logger
from autoseg.training.batches import PatchLoader
from autoseg.training.checkpoints import not_written
from autoseg.training.records import BatchRecord
from autoseg.training.state import TrainState
from autoseg.workspace import FoldFolder

__all__ = ["not_a_number", "tell_skipped"]


def not_a_number(
    state: TrainState, recent: Iterable[BatchRecord], loader: PatchLoader, folder: FoldFolder
) -> AutosegError:
    """The error to stop a training with; writes what made the batch to ``bad_batch.json``, if that can be written.

    If the weights are not numbers, it is the batch before that spoilt them: its loss was a number, its gradient was not.

    Args:
        state: of the training; its iteration is the one that was to be done.
        recent: how the last batches were drawn: an earlier one may have spoilt the weights.
        loader: draws a batch that is not among them.
        folder: of the training.
    """
    what, iteration = "the loss is not a number", state.iteration
    if iteration and not state.is_healthy():
        what, iteration = (
            "the weights are no longer numbers after the step: its gradient was not a number",
            iteration - 1,
        )
    records = {record.iteration: record for record in recent}
    record = records.get(iteration) or loader.draw(iteration)
    cases = sorted({sample.case for sample in record.samples})
    try:
        write_document(folder.bad_batch, record)
        drawn = f"{folder.bad_batch} tells how the batch was drawn, and autoseg replay draws a picture of it"
    except OSError as error:
        drawn = f"How the batch was drawn is not kept: {not_written(folder.bad_batch, error)}"
    except Exception as error:  # numbers of somebody's own transform that are not JSON's
        drawn = f"How the batch was drawn could not be written ({type(error).__name__}: {error})"
    kept = next((path for path in (folder.checkpoint, folder.previous_checkpoint) if path.is_file()), None)
    healthy = f"The last healthy checkpoint is {kept}" if kept else "No checkpoint was saved before"
    return AutosegError(
        f"{what} at iteration {iteration}; the batch held {', '.join(cases)}. {healthy}. {drawn}. "
        "Look at these cases (autoseg check), or plan with a smaller learning_rate: repeating the command would come to "
        "the same batch"
    )


def tell_skipped(skipped: Sequence[str], cases: int, logger: Logger) -> None:
    """Tells at the end of a training which of its cases could not be read, over all starts; nothing if all could.

    Args:
        skipped: ids.
        cases: there are to train on.
        logger: hears it.
    """
    if skipped:
        text = f"warning: {len(skipped)} of {cases} training cases could not be read, and others were drawn in their place: "
        logger.event("message", text=text + ", ".join(skipped))
