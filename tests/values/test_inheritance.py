"""Inheritance: what a file leaves out is found again, whatever inherits from whom, and nonsense is refused at its field."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import msgspec
import pytest

from autoseg.errors import DocumentError
from autoseg.values import AugmentationSpec, Configuration, NormalizationSpec, Plan, ResamplingSpec, decode, encode
from autoseg.values.inheritance import condensed, expanded, origin
from tests.small_plans import SHORT, small_configuration, small_network, small_plan

BASE = small_configuration("3d_fullres", reasons={"patch": "fits", "batch": "smallest"})
MINIMAL = {"name": "3d_small", "inherits_from": "3d_fullres", "batch_size": 1}
JsonObject = dict[str, object]


def raw(*configurations: Configuration) -> JsonObject:
    """The decoded file of a plan."""
    return json.loads(encode(small_plan(*configurations)))


def with_configurations(*extra: JsonObject) -> str:
    """The text of a plan whose ``extra`` configurations are written by hand after ``BASE``."""
    document = raw(BASE)
    return json.dumps({**document, "configurations": [*document["configurations"], *extra]})


def in_file(plan: Plan) -> list[JsonObject]:
    return json.loads(encode(plan))["configurations"]


def test_a_minimal_child_is_complete_in_memory_and_minimal_again_in_the_file() -> None:
    plan = decode(Plan, with_configurations(MINIMAL))
    expected = msgspec.structs.replace(BASE, name="3d_small", inherits_from="3d_fullres", batch_size=1)
    assert plan.configurations == (BASE, expected)
    assert in_file(plan)[1] == MINIMAL


def test_objects_are_merged_by_field_and_all_else_is_replaced_whole() -> None:
    child = {
        **MINIMAL,
        "network": {"features": [16, 32]},
        "training": {"epochs": 9},
        "augmentation": {"recipe": "none"},
        "resampling": {"image_order": 1},
        "spacing": [2.0, 1.0, 1.0],
        "reasons": {"features": "more"},
    }
    plan = decode(Plan, with_configurations(child))
    assert plan.configurations[1] == msgspec.structs.replace(
        BASE,
        name="3d_small",
        inherits_from="3d_fullres",
        batch_size=1,
        network=msgspec.structs.replace(BASE.network, features=(16, 32)),
        training=msgspec.structs.replace(SHORT, epochs=9),
        augmentation=msgspec.structs.replace(BASE.augmentation, recipe="none"),
        resampling=ResamplingSpec(image_order=1),
        spacing=(2.0, 1.0, 1.0),
        reasons={"features": "more"},
    )
    assert in_file(plan)[1] == child


def test_a_chain_is_resolved_in_whatever_order_it_is_written() -> None:
    document = raw(BASE)
    grandchild = {"name": "c", "inherits_from": "b", "training": {"warmup_iterations": 5}}
    child = {"name": "b", "inherits_from": "3d_fullres", "training": {"epochs": 7}, "batch_size": 3}
    text = json.dumps({**document, "configurations": [grandchild, child, *document["configurations"]]})
    plan = decode(Plan, text)
    assert plan.names == ("c", "b", "3d_fullres")
    assert plan.configurations[0].training == msgspec.structs.replace(SHORT, epochs=7, warmup_iterations=5)
    assert plan.configurations[0].batch_size == 3
    assert in_file(plan)[:2] == [grandchild, child]


def test_neither_the_name_nor_the_base_is_inherited() -> None:
    nameless = {key: value for key, value in MINIMAL.items() if key != "name"}
    with pytest.raises(DocumentError, match=r"missing required field `name` - at `\$\.configurations\[1\]`"):
        decode(Plan, with_configurations(nameless))
    plan = decode(Plan, with_configurations(MINIMAL, {"name": "c", "inherits_from": "3d_small"}))
    assert [each.inherits_from for each in plan.configurations] == [None, "3d_fullres", "3d_small"]


def test_a_child_may_take_back_what_its_base_has() -> None:
    cascade = small_configuration("cascade", inputs=2, previous_stage="3d_fullres")
    alone = small_configuration("alone", inherits_from="cascade")
    plan = small_plan(BASE, cascade, alone)
    assert in_file(plan)[2]["previous_stage"] is None
    assert decode(Plan, encode(plan)) == plan


def test_the_id_tells_what_is_meant_not_how_it_is_written() -> None:
    child = msgspec.structs.replace(BASE, name="b", batch_size=1)
    inherits = msgspec.structs.replace(child, inherits_from="3d_fullres")
    assert small_plan(BASE, child).id == small_plan(BASE, inherits).id
    assert encode(small_plan(BASE, child)) != encode(small_plan(BASE, inherits))
    assert small_plan(BASE).id != small_plan(BASE, child).id


def test_the_previous_stage_makes_another_experiment() -> None:
    stages = [small_configuration("cascade", inputs=2, previous_stage=name) for name in ("3d_fullres", "b")]
    others = (BASE, msgspec.structs.replace(BASE, name="b", batch_size=1))
    assert len({small_plan(*others, stage).id for stage in stages}) == 2


def test_a_plan_without_inheritance_is_left_as_it_is() -> None:
    document = raw(BASE)
    assert expanded(document) is document
    assert condensed(document) == document


@pytest.mark.parametrize(
    "damaged", [None, [], 3, {"configurations": {}}, {"configurations": [1, None, {}, []]}], ids=str
)
def test_what_is_no_plan_is_left_for_the_reader_to_refuse(damaged: object) -> None:
    assert expanded(damaged) is damaged


def refusal(*extra: JsonObject) -> str:
    with pytest.raises(DocumentError) as caught:
        decode(Plan, with_configurations(*extra), source="plan.json")
    return str(caught.value)


def test_a_circle_is_refused_with_its_members() -> None:
    text = refusal({"name": "a", "inherits_from": "b"}, {"name": "b", "inherits_from": "a"})
    assert "found a -> b -> a" in text
    assert "`$.configurations[1].inherits_from`" in text


def test_who_only_leads_into_a_circle_is_not_blamed_for_it() -> None:
    links = {"x": "a", "a": "b", "b": "a"}
    text = refusal(*({"name": name, "inherits_from": base} for name, base in links.items()))
    assert "`$.configurations[2].inherits_from`; found a -> b -> a" in text


@pytest.mark.parametrize("field", ["inherits_from", "previous_stage"])
@pytest.mark.parametrize(
    ("target", "named"), [("x", "found x -> x"), ("2d", "found 2d, expected one of null, 3d_fullres")], ids=str
)
def test_a_link_to_itself_or_to_nowhere_is_refused(field: str, target: str, named: str) -> None:
    text = refusal({**MINIMAL, "name": "x", field: target})
    assert f"`$.configurations[1].{field}`" in text
    assert named in text


def test_stages_in_a_circle_are_refused() -> None:
    two = ({**MINIMAL, "name": name, "previous_stage": other} for name, other in (("a", "b"), ("b", "a")))
    assert "`$.configurations[1].previous_stage`; found a -> b -> a" in refusal(*two)


@pytest.mark.parametrize("base", [3, ["3d_fullres"], {}], ids=str)
def test_a_base_that_is_no_name_is_refused(base: object) -> None:
    assert "$.configurations[1].inherits_from" in refusal({**MINIMAL, "inherits_from": base})


def test_two_of_one_name_are_refused_though_one_inherits_from_the_other() -> None:
    assert "`$.configurations[1].name`" in refusal({"name": "3d_fullres", "inherits_from": "3d_fullres"})


@pytest.mark.parametrize(
    ("spoil", "path"),
    [
        (lambda base: base.update(batch_size="many"), "$.configurations[1].batch_size"),
        (lambda base: base["training"].update(epochs=0), "$.configurations[1].training.epochs"),
        (lambda base: base["training"].update(epoch=1), "$.configurations[1].training.epoch"),
        (lambda base: base["network"].update(strides=3), "$.configurations[1].network.strides"),
    ],
)
def test_an_inherited_fault_is_named_where_it_stands(spoil: Callable[[JsonObject], None], path: str) -> None:
    """Though the child is read first."""
    document = raw(BASE)
    (base,) = document["configurations"]
    spoil(base)
    with pytest.raises(DocumentError) as caught:
        decode(Plan, json.dumps({**document, "configurations": [{**MINIMAL, "network": {"features": [2, 4]}}, base]}))
    assert f"`{path}`" in str(caught.value)


def test_the_origin_of_a_field_is_the_nearest_that_holds_it() -> None:
    document = {
        "configurations": [
            {"name": "c", "inherits_from": "b", "network": {"features": []}},
            {"name": "b", "inherits_from": "a", "batch_size": 1},
            {"name": "a", "network": {"strides": []}, "batch_size": 2, "spacing": []},
        ]
    }
    for path, expected in [
        ("network.features[0]", 0),
        ("network.strides[1]", 2),
        ("batch_size", 1),
        ("spacing[2]", 2),
        ("name", 0),
        ("nowhere", 2),
    ]:
        assert origin(document, f"$.configurations[0].{path}") == f"$.configurations[{expected}].{path}"
    assert origin(document, "$.labels") == "$.labels"


JUNK = (None, 0, -1, 1.5, 10**30, True, "x", "a", "b", "", [], [[]], [None], {}, {"name": "a"}, {"inherits_from": "c"})


def places(tree: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The paths of all fields and entries of a JSON tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in inner for place in [(*path, key), *places(value, (*path, key))]]


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 10))])
def test_whatever_a_hand_writes_is_read_or_refused(seed: int) -> None:
    draw = random.Random(seed)
    relatives = (
        small_configuration("a"),
        small_configuration("b", inherits_from="a", batch_size=1),
        small_configuration("c", inherits_from="b", inputs=2, previous_stage="a"),
    )
    for _ in range(100):
        document = raw(*relatives)
        for _ in range(draw.randint(1, 3)):
            *path, last = draw.choice(places(document))
            inner = document
            for step in path:
                inner = inner[step]
            if draw.random() < 0.2:
                del inner[last]
            else:
                inner[last] = draw.choice(JUNK)
        try:
            plan = decode(Plan, json.dumps(document))
        except DocumentError:
            continue
        assert decode(Plan, encode(plan)) == plan


def random_configuration(name: str, draw: random.Random) -> Configuration:
    """Any legal one: few values per field, so that relatives often agree."""
    dimensions = draw.choice((2, 3))
    return Configuration(
        name=name,
        spacing=tuple(draw.choice((None, 1.0, 0.1 + 0.2)) for _ in range(3)),
        median_shape=(8.0, 8.5, draw.choice((8.0, 9.0))),
        patch_size=tuple(draw.choice((8, 12)) for _ in range(dimensions)),
        batch_size=draw.choice((1, 2)),
        network=small_network(dimensions, features=draw.choice(((4, 8), (4, 8, 16)))),
        training=msgspec.structs.replace(
            SHORT,
            epochs=draw.choice((1, 2)),
            ema_decay=draw.choice((None, 0.9)),
            learning_rate=draw.choice((1e-5, 0.3)),
        ),
        augmentation=AugmentationSpec(
            rotation_degrees=(draw.choice((0.0, -0.0, 30.0)),) * (1 if dimensions == 2 else 3),
            mirror_axes=draw.choice(((), (0,), (1, 0))),
        ),
        resampling=ResamplingSpec(image_order=draw.choice((1, 3))),
        expected_memory_bytes=draw.choice((0, 2**40)),
        reasons=draw.choice(({}, {"a": "1"}, {"a": "1", "b": "2"}, {"b": "2", "a": "1"})),
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_plans_with_random_inheritance_are_read_as_they_were_written(seed: int) -> None:
    draw = random.Random(seed)
    names = [f"c{index}" for index in range(draw.randint(1, 8))]
    bases = [draw.choice((None, *names[:index])) for index in range(len(names))]
    configurations = [
        msgspec.structs.replace(random_configuration(name, draw), inherits_from=base)
        for name, base in zip(names, bases, strict=True)
    ]
    draw.shuffle(configurations)
    plan = small_plan(*configurations, normalization=(NormalizationSpec(scheme="none"),))
    written = encode(plan)
    again = decode(Plan, written)
    assert again == plan
    assert again.id == plan.id
    assert encode(again) == written
    complete = [msgspec.structs.replace(each, inherits_from=None) for each in plan.configurations]
    assert msgspec.structs.replace(plan, configurations=tuple(complete)).id == plan.id
