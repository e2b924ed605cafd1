"""A plan in a few words, for the tests of preprocessing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoseg.values import Label, Labels, NormalizationSpec, Plan, ResamplingSpec
from tests.small_plans import small_configuration, small_plan

ORGANS = Labels(foreground=tuple(Label(name=f"organ {value}", values=(value,)) for value in (1, 2, 3)))


def plan_of(
    *,
    labels: Labels = ORGANS,
    spacing: tuple[float | None, float | None, float | None] = (None, None, None),
    resampling: ResamplingSpec | None = None,
    **changes: object,
) -> Plan:
    """A plan of one configuration; without ``spacing`` it resamples nothing."""
    configuration = small_configuration(
        "3d_fullres",
        inputs=len(changes.get("channels", ("MRI",))),
        outputs=labels.output_count,
        spacing=spacing,
        resampling=resampling or ResamplingSpec(),
    )
    return small_plan(configuration, labels=labels, **{"normalization": (NormalizationSpec(scheme="none"),), **changes})


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """Makes plans; see ``plan_of``."""
    return plan_of
