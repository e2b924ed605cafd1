"""What made the results on a fold's held-out cases, and how long they took: Validation."""

from __future__ import annotations

import math

from autoseg.values.json_form import Value, require

__all__ = ["Validation"]


class Validation(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.validation/1"):
    """What made the label maps and scores of a validation folder.

    Attributes:
        plan: its id.
        configuration: its name.
        weights: SHA-256 of the fold's weights, as their file states it.
        device: that predicted: cpu, cuda or mps.
        threads: of torch on the CPU.
        device_name: of the GPU; empty for other devices, and in records from before it was kept.
        seconds: case id to the time from the preprocessed image to the label map, without scoring and writing.
    """

    plan: str
    configuration: str
    weights: str
    device: str
    threads: int
    device_name: str = ""
    seconds: dict[str, float] = {}

    def __post_init__(self) -> None:
        sensible = all(0 <= each < math.inf for each in self.seconds.values())
        require(sensible, "a time is out of range", field="seconds", expected="0 or more")

    @property
    def seconds_per_case(self) -> float | None:
        """Mean time of a case; None if none was timed."""
        return sum(self.seconds.values()) / len(self.seconds) if self.seconds else None
