"""The graph of jobs: order, needs, what a failure leaves to do, and how hours are divided."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.jobs import LEAST_HOURS, Job, blocked, hours_for, job_graph, makespan, ready, with_first_stages

STAGES = {"2d": None, "3d_fullres": None, "3d_lowres": None, "3d_cascade_fullres": "3d_lowres"}
FOLDS = ("0", "1", "2")


def names(jobs) -> list[str]:
    return [job.name for job in jobs]


def test_every_fold_of_all_configurations_comes_before_the_next_one() -> None:
    assert names(job_graph(["3d_fullres", "2d"], STAGES, ["0", "2"], FOLDS)) == [
        "preprocess",
        "train 2d 0",
        "train 3d_fullres 0",
        "train 2d 2",
        "train 3d_fullres 2",
        "select",
    ]


def test_a_second_stage_needs_all_folds_of_the_first() -> None:
    jobs = job_graph(["3d_cascade_fullres"], STAGES, ["1"], FOLDS)
    first = [f"train 3d_lowres {fold}" for fold in FOLDS]
    assert names(jobs) == ["preprocess", *first, "train 3d_cascade_fullres 1", "select"]
    assert list(jobs[4].needs) == first
    assert names(ready(jobs, {"preprocess", *first[:2]}, ())) == [first[2]]
    assert names(ready(jobs, {"preprocess", *first}, ())) == ["train 3d_cascade_fullres 1"]


def test_full_models_come_last_and_are_no_part_of_the_first_stage() -> None:
    jobs = names(job_graph(["2d", "3d_cascade_fullres"], STAGES, ["0", "full"], FOLDS))
    assert jobs.index("train 2d full") < jobs.index("train 3d_cascade_fullres 0")
    assert jobs[-2] == "train 3d_cascade_fullres full"
    assert "train 3d_lowres 2" in jobs


def test_all_configurations_are_wanted_unless_some_are_named() -> None:
    assert with_first_stages((), STAGES) == tuple(STAGES)
    assert with_first_stages(["3d_cascade_fullres", "2d"], STAGES) == ("2d", "3d_lowres", "3d_cascade_fullres")


def test_a_failure_stops_only_what_needs_it() -> None:
    jobs = job_graph((), STAGES, FOLDS, FOLDS)
    failed = {"preprocess", "train 3d_lowres 1"}
    assert blocked(jobs, failed) == {f"train 3d_cascade_fullres {fold}": "train 3d_lowres 1" for fold in FOLDS}
    done: set[str] = set()
    while waiting := names(ready(jobs, done, failed)):
        done.add(waiting[0])
    assert done == {*names(jobs)} - failed - blocked(jobs, failed).keys()
    assert "select" in done


@settings(deadline=None, max_examples=60)
@given(
    wanted=st.lists(st.sampled_from(list(STAGES)), unique=True),
    folds=st.lists(st.sampled_from(FOLDS), unique=True, min_size=1),
    data=st.data(),
)
def test_every_order_of_endings_leads_to_the_end(wanted, folds, data) -> None:
    """Whatever fails, in whatever order: each job is done, failed or blocked, and none began before what it needs."""
    jobs = job_graph(wanted, STAGES, folds, FOLDS)
    done: list[str] = []
    failed: list[str] = []
    while waiting := list(ready(jobs, done, failed)):
        job = data.draw(st.sampled_from(waiting))
        assert set(job.needs) <= set(done)
        (failed if data.draw(st.booleans()) else done).append(job.name)
    assert {*done, *failed, *blocked(jobs, failed)} == {*names(jobs)}
    assert len(done) + len(failed) + len(blocked(jobs, failed)) == len(jobs)


def test_the_time_of_all_by_hand() -> None:
    jobs = job_graph(["2d", "3d_fullres"], STAGES, FOLDS, FOLDS)
    each = {job.name: 10.0 if job.configuration == "2d" else 30.0 for job in jobs if job.kind == "train"}
    assert makespan(jobs, each, 1) == 120.0
    assert makespan(jobs, each, 2) == 70.0  # 10 10 30 | 30 .. : the lanes end at 70 and 50
    assert makespan(jobs, each, 99) == 30.0
    cascade = job_graph(["3d_cascade_fullres"], STAGES, ["0"], FOLDS)
    assert makespan(cascade, {job.name: 1.0 for job in cascade if job.kind == "train"}, 3) == 2.0
    assert makespan(cascade[-1:], {}, 2) == 0.0


@settings(deadline=None, max_examples=60)
@given(
    lanes=st.integers(1, 4),
    hours=st.floats(1.0, 1000.0),
    costs=st.dictionaries(st.sampled_from(list(STAGES)), st.floats(0.1, 100.0), min_size=4),
)
def test_hours_fill_the_time_in_the_ratio_of_the_costs(lanes, hours, costs) -> None:
    jobs = job_graph((), STAGES, FOLDS, FOLDS)
    cost = {job.name: costs[job.configuration] for job in jobs if job.kind == "train"}
    shares = hours_for(jobs, {}, cost, lanes, 3600 * hours)
    if min(shares.values()) > LEAST_HOURS:
        assert makespan(jobs, shares, lanes) == pytest.approx(hours, rel=1e-6)
        ratios = [shares[name] / each for name, each in cost.items()]
        assert ratios == pytest.approx([ratios[0]] * len(ratios))


def test_time_that_is_known_is_left_out_and_nobody_gets_less_than_the_least() -> None:
    jobs = job_graph(["2d"], STAGES, FOLDS, FOLDS)
    shares = hours_for(jobs, {"train 2d 0": 3600.0}, {"train 2d 1": 1.0, "train 2d 2": 1.0}, 1, 3 * 3600.0)
    assert shares == pytest.approx({"train 2d 1": 1.0, "train 2d 2": 1.0})
    late = hours_for(jobs, {"train 2d 0": 3600.0}, {"train 2d 1": 1.0, "train 2d 2": 9.0}, 1, -5.0)
    assert late == {"train 2d 1": LEAST_HOURS, "train 2d 2": LEAST_HOURS}


def test_a_job_that_is_no_training_has_no_fold() -> None:
    with pytest.raises(ValueError, match="configuration and a fold"):
        Job(kind="select", configuration="2d", fold="0")


def test_where_nothing_is_held_out_nothing_is_selected() -> None:
    assert names(job_graph(["2d"], STAGES, ["full"], FOLDS)) == ["preprocess", "train 2d full"]
