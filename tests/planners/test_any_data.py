"""Laws of the default and the residual planner's plans for any data that there may be, found by ``hypothesis``."""

from __future__ import annotations

import functools
import math
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.errors import InputError
from autoseg.networks.build import build_network
from autoseg.planning import GIBIBYTE, Budget, MemoryCost
from autoseg.values import AxisMap, Configuration, Fingerprint, Plan, decode, encode
from planners.memory import MARGIN
from planners.unet import DefaultPlanner, ResidualPlanner
from tests.planners.synthetic import CPU_COST, GPU_COST, fingerprint

Group = tuple[tuple[float, float, float], tuple[int, int, int], int]
#: Same examples in every run; bounded, so that the file takes seconds.
anything = settings(
    max_examples=75,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def steps(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda step: round(step, 3))


def sizes(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


#: Spacings and sizes along slices, rows and columns, by kind of data.
KINDS = {
    "planar": ((steps(1, 1), steps(0.1, 1), steps(0.1, 1)), (sizes(1, 1), sizes(8, 3000), sizes(8, 3000))),
    "one slice": ((steps(0.2, 20), steps(0.1, 3), steps(0.1, 3)), (sizes(1, 1), sizes(8, 1200), sizes(8, 1200))),
    "thick slices": ((steps(4, 40), steps(0.2, 1), steps(0.2, 1)), (sizes(2, 60), sizes(100, 800), sizes(100, 800))),
    "3, 5 or 7 mm": (
        (st.sampled_from([3.0, 5.0, 7.0]), steps(0.5, 1), steps(0.5, 1)),
        (sizes(10, 150), sizes(200, 512), sizes(200, 512)),
    ),
    "tiny": ((steps(0.3, 6), steps(0.3, 6), steps(0.3, 6)), (sizes(3, 15), sizes(3, 15), sizes(3, 15))),
    "one thin axis": ((steps(0.3, 6), steps(0.3, 6), steps(0.3, 6)), (sizes(3, 400), sizes(3, 9), sizes(3, 400))),
    "huge": ((steps(0.05, 1), steps(0.05, 1), steps(0.05, 1)), (sizes(400, 3000), sizes(400, 3000), sizes(400, 3000))),
    "any": ((steps(0.1, 10), steps(0.1, 10), steps(0.1, 10)), (sizes(3, 800), sizes(3, 800), sizes(3, 800))),
}


@st.composite
def axis_maps(draw: st.DrawFn) -> AxisMap:
    order = draw(st.permutations(range(3)))
    flipped = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    return AxisMap(order=(order[0], order[1], order[2]), flipped=flipped)


@st.composite
def data_sets(draw: st.DrawFn) -> Fingerprint:
    """Up to three groups of cases of one kind, stored in any axis order."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    spacing, shape = KINDS[kind]
    stored = AxisMap() if kind == "planar" else draw(axis_maps())
    groups: list[Group] = []
    for _ in range(draw(st.integers(1, 3))):
        step, size = draw(st.tuples(*spacing)), draw(st.tuples(*shape))
        count = draw(st.one_of(st.integers(1, 5), st.integers(1, 166)))
        groups.append((stored.inverse().reorder(step), stored.inverse().reorder(size), count))
    return fingerprint(
        groups,
        labels=draw(st.one_of(st.integers(2, 10), st.integers(2, 120))),
        channels=[f"channel {place}" for place in range(draw(st.integers(1, 8)))],
        to_canonical=stored,
    )


budgets = st.one_of(st.sampled_from([4, 8, 11, 24, 80]), st.integers(4, 80)).map(lambda size: size * GIBIBYTE)
any_planner = pytest.mark.parametrize("planner", [DefaultPlanner(), ResidualPlanner()], ids=["default", "residual"])
costs = st.sampled_from([CPU_COST, GPU_COST])


def cases_that_grow(data: Fingerprint, plan: Plan) -> int:
    """How many cases have over three times their voxels on the grid of full resolution."""
    target = plan.configurations[:2][-1].spacing  # in 2D the slice axis has none
    grown = 0
    for spacing in data.spacings(plan.orientation):
        ordered = [spacing[axis] for axis in plan.axis_order]
        grown += math.prod(own / wanted for own, wanted in zip(ordered, target, strict=True) if wanted) > 3
    return grown


def check_plan(plan: Plan, data: Fingerprint, cost: MemoryCost) -> None:
    assert decode(Plan, encode(plan)) == plan
    flat = all(1 in case.shape for case in data.cases)
    assert plan.names[:2] == (("2d",) if flat else ("2d", "3d_fullres"))
    warned = [warning for warning in plan.warnings if "without new information" in warning]
    assert len(warned) == (cases_that_grow(data, plan) > 0)
    assert len(plan.warnings) == len(warned)
    for each in plan.configurations:
        check_sizes(each)
        taken = cost(each.network, each.patch_size, each.batch_size, each.training)
        assert taken == each.expected_memory_bytes
        assert taken * MARGIN <= plan.budget_bytes + MARGIN
        labels = len(data.labels.foreground)
        assert each.network.input_channels == len(data.channels) + labels * (each.previous_stage is not None)


def check_sizes(each: Configuration) -> None:
    """Divisible patches; an axis that is strided keeps two voxels or more; a batch of one patch or more."""
    assert each.batch_size >= 1
    for axis, edge in enumerate(each.patch_size):
        step = each.network.divisor[axis]
        assert edge % step == 0
        assert step == 1 or edge // step >= 2
    assert math.prod(edge // step for edge, step in zip(each.patch_size, each.network.divisor, strict=True)) > 1


@any_planner
@anything
@given(data=data_sets(), memory_bytes=budgets, cost=costs)
def test_any_data_gets_a_plan_that_keeps_the_laws(planner, data, memory_bytes, cost) -> None:
    plan = planner.plan(data, Budget(memory_bytes=memory_bytes), cost, name="any")
    check_plan(plan, data, cost)


@any_planner
@settings(anything, max_examples=8)
@given(data=data_sets(), memory_bytes=budgets, choice=st.data())
def test_any_plan_has_networks_that_can_be_built_and_run(planner, data, memory_bytes, choice) -> None:
    """Without numbers, so in a moment: logits of every resolution, the first of the patch's size."""
    plan = planner.plan(data, Budget(memory_bytes=memory_bytes), GPU_COST, name="any")
    each = choice.draw(st.sampled_from(plan.configurations))
    with torch.device("meta"), torch.no_grad():
        network = build_network(each.network, seed=0)
        logits = network(torch.empty(1, each.network.input_channels, *each.patch_size))
    assert logits[0].shape == (1, each.network.output_channels, *each.patch_size)


@any_planner
@settings(anything, max_examples=12)
@given(data=data_sets(), hundredths=st.integers(10, 120), cost=costs)
def test_a_budget_that_is_too_small_is_refused_with_one_that_works(planner, data, hundredths, cost) -> None:
    """The budget that the error names is enough, and hardly more than needed: just below, it is named again."""
    memory_bytes, cost = hundredths * GIBIBYTE // 100, functools.cache(cost)  # the plans look at the same networks
    try:
        plan = planner.plan(data, Budget(memory_bytes=memory_bytes), cost, name="small")
    except InputError as error:
        enough = float(re.search(r"--gpu-memory ([0-9.]+)\.$", str(error))[1])
        assert enough * GIBIBYTE > memory_bytes
        plan = planner.plan(data, Budget(memory_bytes=int(enough * GIBIBYTE)), cost, name="enough")
        with pytest.raises(InputError, match=rf"too small.*--gpu-memory {enough}\.$"):
            planner.plan(data, Budget(memory_bytes=int((enough - 0.11) * GIBIBYTE)), cost, name="less")
    check_plan(plan, data, cost)
