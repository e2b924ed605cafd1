"""What a training was asked to do: Fold, Split, TrainJob; how far it goes: Length; the ExecutionPath that it chose."""

from __future__ import annotations

import math
from typing import Literal

from autoseg.errors import UnknownNameError
from autoseg.values.json_form import Value, require
from autoseg.values.parts import PartRecord

__all__ = ["ExecutionPath", "Fold", "Length", "Split", "TrainJob", "fold_names"]


class Fold(Value, frozen=True, kw_only=True):
    """One way to divide the cases: those trained on and those held out."""

    train: tuple[str, ...]
    val: tuple[str, ...]

    def __post_init__(self) -> None:
        require(len(self.train) > 0, "a fold needs at least one training case")
        repeated = len(set(self.train)) < len(self.train) or len(set(self.val)) < len(self.val)
        require(not repeated, "a fold names a case twice")
        shared = sorted(set(self.train) & set(self.val))
        require(not shared, f"cases stand in train and val of one fold: {', '.join(shared[:5])}")


#: The folds, in order: the JSON form is nnU-Net's ``splits_final.json``.
Split = tuple[Fold, ...]


class ExecutionPath(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.execution/1"):
    """How a network runs on a device; chosen once by measurement and kept, so that resuming is exact.

    Attributes:
        device: cpu, cuda or mps.
        precision: fp32, or autocast to bf16, or to fp16 with scaled gradients.
        channels_last: memory format of activations and weights.
        compiled: through torch.compile.
        graphs: of the compiled network, replayed as CUDA graphs.
        threads: of torch on the CPU.
        augment_on: where patches are sampled and augmented: on the CPU by the threads that load them, or on the device.
        parts: that a batch is computed in, one after the other, where memory is short; at most the batch size counts.
        deterministic: only algorithms that give the same bits in every run; wished for, for the price of speed on a GPU.
        reason: what was measured.
    """

    device: str
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compiled: bool = False
    graphs: bool = False
    threads: int = 1
    augment_on: Literal["cpu", "device"] = "cpu"
    parts: int = 1
    deterministic: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        require(self.device in ("cpu", "cuda", "mps"), f"device must be cpu, cuda or mps, not {self.device!r}")
        require(self.compiled or not self.graphs, "graphs are of a compiled network")
        require(self.threads > 0, "threads must be positive")
        require(self.parts > 0, "parts must be positive")

    @property
    def described(self) -> str:
        """In words: device, precision and what else makes it fast."""
        layout = ["channels-last"] if self.channels_last else []
        return " ".join([self.device, self.precision, *layout, *(["compiled"] if self.compiled else [])])


class TrainJob(Value, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag="autoseg.train-job/1"):
    """One training, fully specified: the same job gives the same weights on the same machine.

    Attributes:
        plan_id: content hash of the plan.
        configuration: its name.
        fold: index, or "full" for one model on all cases.
        iterations: in total, as planned; ``Length`` tells whether it became fewer or more.
        seed: of all random streams.
        cases: trained on and held out.
        case_keys: content key of every preprocessed case; a changed case makes another job.
        annotated: names of the labels that were looked for, of the cases in which not all were; left out of the file if
            there are none.
        parts: where the code of the plugs came from that are not autoseg's; changed code makes another job.
        previous_keys: of a cascade's next stage, content key of what the stage before predicted of every case; other
            predictions make another job. Left out of the file where there is no stage before.
        previous_weights: of such a stage, fold of the stage before to the SHA-256 of the weights that predicted; the stage
            before predicts with no others.
        begins_from: SHA-256 of the weight file whose weights it begins with; empty for fresh weights.
    """

    plan_id: str
    configuration: str
    fold: str
    iterations: int
    seed: int
    cases: Fold
    case_keys: dict[str, str]
    annotated: dict[str, tuple[str, ...]] = {}
    parts: tuple[PartRecord, ...] = ()
    previous_keys: dict[str, str] = {}
    previous_weights: dict[str, str] = {}
    begins_from: str = ""

    def __post_init__(self) -> None:
        require(self.iterations > 0, "iterations must be positive")


class Length(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.length/1"):
    """How far a training goes, and where its learning rate falls to zero. What has passed is never decided anew.

    With the plan's schedule it gives the learning rate of every iteration; see ``autoseg.training.length``.

    Attributes:
        iterations: that the plan's schedule is spread over; None: open, the rate stays as it is after the warm-up.
        hours: after which the training ends, with its cooldown and the scoring of held-out cases; None: no limit.
        until_plateau: it ends when the estimate on held-out cases no longer rises.
        held_from: iteration from which the rate stays as it is there, because the training was extended.
        cooldown_from: iteration from which the rate falls to zero; None: by the plan's schedule alone, or not decided yet.
        end: iterations in total; None: not decided yet.
        decided: the cooldown was decided while training ran, and stays there whatever is killed and repeated.
        reason: why the cooldown begins where it does.
        extended_by: iterations that were added last.
        trained: iterations of the model that stands in the folder; 0 for none.
    """

    iterations: int | None = None
    hours: float | None = None
    until_plateau: bool = False
    held_from: int | None = None
    cooldown_from: int | None = None
    end: int | None = None
    decided: bool = False
    reason: str = ""
    extended_by: int = 0
    trained: int = 0

    def __post_init__(self) -> None:
        finite = self.hours is None or 0 < self.hours < math.inf
        require(finite, "hours must be positive and have an end", field="hours", found=self.hours)
        require(
            self.end is not None or (self.iterations is None and self.cooldown_from is None),
            "a training of known length must have an end",
            field="end",
        )
        if self.end is not None and self.cooldown_from is not None:
            expected = f"more than {self.cooldown_from}, where the cooldown begins"
            require(
                self.end > self.cooldown_from, "end is out of range", field="end", found=self.end, expected=expected
            )


def fold_folder(fold: str) -> str:
    """``fold_0`` for fold "0", ``full`` for "full"."""
    return fold if fold == "full" else f"fold_{fold}"


def fold_of_folder(name: str) -> str | None:
    """The fold whose folder has that name, see ``fold_folder``; None of any other folder, such as ``fold_1_old``."""
    fold = name.removeprefix("fold_")
    known = fold == "full" or (fold.isdecimal() and fold == str(int(fold)))
    return fold if known and name == fold_folder(fold) else None


def fold_names(text: str, count: int) -> tuple[str, ...]:
    """The folds that a text names, in order, each once: a number, a list ``0,2``, a range ``0..4``, both, "all" or "full".

    Args:
        text: as typed.
        count: how many folds there are.

    Raises:
        UnknownNameError: it names none, or one that there is not.
    """
    if text == "full":
        return ("full",)
    if text == "all":
        return tuple(map(str, range(count)))
    named: set[int] = set()
    for part in text.split(","):
        first, dots, last = (each.strip() for each in part.partition(".."))
        last = last if dots else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < count):
            raise UnknownNameError(
                f"there is no fold {part.strip()!r}",
                found=repr(text) if part != text else None,
                expected=f"0 to {count - 1}, several as in 0,2 or 0..{count - 1}, all (each of them in turn) or full (one "
                "model on all cases)",
            )
        named.update(range(int(first), int(last) + 1))
    return tuple(map(str, sorted(named)))


def select_fold(split: Split, fold: str) -> Fold:
    """The cases of a fold; "full" trains on everything and holds nothing out.

    Raises:
        UnknownNameError: the split has no such fold.
    """
    if fold == "full":
        return Fold(train=tuple(sorted({case for each in split for case in (*each.train, *each.val)})), val=())
    if fold in map(str, range(len(split))):
        return split[int(fold)]
    raise UnknownNameError(
        f"there is no fold {fold!r}",
        expected=f"0 to {len(split) - 1}, all (each of them in turn) or full (one model on all cases)",
    )
