"""Patients: by the names only where they tell, by a pattern or a table exactly as stated, and remembered."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from autoseg.errors import InputError
from autoseg.files import write_document
from autoseg.patients import current_patients, group_by_patient, joined
from autoseg.values import Case, Dataset, Patients
from autoseg.workspace import Workspace
from tests.small_plans import ONE_LABEL


def ids(count: int, prefix: str = "case") -> list[str]:
    return [f"{prefix}_{index:03d}" for index in range(count)]


@pytest.mark.parametrize(
    "cases",
    [
        ids(20, "hippocampus"),
        ids(5, "em"),
        [*ids(20, "site1"), *ids(3, "site2")],  # one stem owns more than half
        ["a", "b", "c"],
        ["P01_t0", "P01_t1", "P02_t0", "P03_t0", "P04_t0"],  # only one stem owns several
        [f"P{patient:02d}_t0" for patient in range(8)],
        ["001", "002", "003"],
        [],
    ],
    ids=str,
)
def test_names_of_single_cases_are_not_grouped(cases: list[str]) -> None:
    assert group_by_patient(cases) is None


@pytest.mark.parametrize(
    "pattern", ["P{0:02d}_t{1}", "patient{0:02d}_frame{1:02d}", "sub-{0}-ses{1}", "{0}x.{1}", "A{0} {1}"]
)
def test_visits_of_patients_are_grouped(pattern: str) -> None:
    visits_of = {patient: [pattern.format(patient, visit) for visit in range(2)] for patient in range(1, 5)}
    groups = group_by_patient([case for cases in visits_of.values() for case in cases])
    assert groups is not None
    stems = {patient: {groups[case] for case in cases} for patient, cases in visits_of.items()}
    assert all(len(each) == 1 for each in stems.values())
    assert len({next(iter(each)) for each in stems.values()}) == 4


def test_a_stem_that_owns_exactly_half_is_a_patient() -> None:
    assert group_by_patient(["P1_t0", "P1_t1", "P2_t0", "P2_t1"]) is not None


def test_a_case_that_is_nobodys_visit_is_its_own_patient() -> None:
    groups = group_by_patient(["P1_t0", "P1_t1", "P2_t0", "P2_t1", "odd"])
    assert groups["odd"] == "odd"
    assert groups["P1_t0"] == groups["P1_t1"] != groups["P2_t0"]


VISITS = ("P1_t0", "P1_t1", "P2_t0", "P3_t0")
BY_PATIENT = {"P1_t0": "P1", "P1_t1": "P1", "P2_t0": "P2", "P3_t0": "P3"}


def dataset(*cases: str, unlabelled: tuple[str, ...] = ()) -> Dataset:
    return Dataset(
        name="D",
        root="/d",
        channels=("T1", "T2"),
        labels=ONE_LABEL,
        file_ending=".nii.gz",
        cases=tuple(
            Case(
                id=id_,
                images=tuple(f"imagesTr/{id_}_{channel:04d}.nii.gz" for channel in range(2)),
                label=None if id_ in unlabelled else f"labelsTr/{id_}.nii.gz",
            )
            for id_ in sorted((*cases, *unlabelled))
        ),
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "W")


def remember(workspace: Workspace, patients: Patients) -> None:
    write_document(workspace.patients_path, patients)


def refusal(workspace: Workspace, data: Dataset, group_by: str | Path | None) -> str:
    with pytest.raises(InputError) as caught:
        current_patients(workspace, data, str(group_by) if group_by is not None else None)
    return str(caught.value)


def test_without_a_rule_and_without_stems_every_case_is_its_own(workspace: Workspace) -> None:
    found = current_patients(workspace, dataset(*ids(4), unlabelled=("unseen",)))
    assert found == Patients(source="names", patient_of={case: case for case in ids(4)})


def test_without_a_rule_the_names_tell(workspace: Workspace) -> None:
    found = current_patients(workspace, dataset("P1_t0", "P1_t1", "P2_t0", "P2_t1", "odd"))
    assert found.several == {"P1": ("P1_t0", "P1_t1"), "P2": ("P2_t0", "P2_t1")}
    assert not found.stated


def test_who_was_found_by_name_stays_a_patient_though_others_go(workspace: Workspace) -> None:
    """The names alone would not tell any more: P2 has one visit left, and P1 more than half of all."""
    before = current_patients(workspace, dataset("P1_t0", "P1_t1", "P2_t0", "P2_t1"))
    remember(workspace, before)
    now = dataset("P1_t0", "P1_t1", "P1_t2", "P2_t0", "Q_1")
    found = current_patients(workspace, now)
    assert found.several == {"P1": ("P1_t0", "P1_t1", "P1_t2")}
    assert current_patients(Workspace("elsewhere"), now).several == {}


@pytest.mark.parametrize(
    "pattern", [r"P\d+", r"(P\d)_t\d", r"^(P\d)", r"(?P<patient>P\d)_(t\d)", r"(?P<visit>P)(?P<patient>\d)", "P1|P2|P3"]
)
def test_a_pattern_tells_by_its_group_or_as_a_whole(pattern: str, workspace: Workspace) -> None:
    found = current_patients(workspace, dataset(*VISITS), pattern)
    assert (found.source, found.rule) == ("pattern", pattern)
    assert list(found.several.values()) == [("P1_t0", "P1_t1")]
    assert len(set(found.patient_of.values())) == 3


def test_a_pattern_can_say_that_equal_stems_mean_nothing(workspace: Workspace) -> None:
    assert current_patients(workspace, dataset("P1_t0", "P1_t1", "P2_t0", "P2_t1"), ".*").several == {}


@pytest.mark.parametrize("pattern", ["1_t", "t0", "P1", "", "(x)?P", r"P\d+$"])
def test_a_pattern_that_leaves_cases_out_is_refused_with_the_first_of_them(pattern: str, workspace: Workspace) -> None:
    """It must match from the beginning; an empty patient is none."""
    text = refusal(workspace, dataset(*VISITS, *ids(9, "P1x")), pattern)
    assert "annotated cases; found P" in text
    assert "Widen the pattern" in text


def test_no_more_than_five_cases_are_listed(workspace: Workspace) -> None:
    text = refusal(workspace, dataset(*ids(30)), "case_00")
    assert "for 20 of 30 annotated cases; found case_010, case_011, case_012, case_013, case_014 …" in text


@pytest.mark.parametrize("pattern", ["(", "*", "[a", "a{99999999999999}", r"(?P<patient", "(?P<1>a)"])
def test_what_is_no_pattern_is_refused(pattern: str, workspace: Workspace) -> None:
    assert "not a regular expression" in refusal(workspace, dataset(*VISITS), pattern)


def test_a_pattern_as_long_as_no_path_can_be_is_a_pattern(workspace: Workspace) -> None:
    pattern = "|".join(["P1", "P2", "P3"] * 2000)
    assert current_patients(workspace, dataset(*VISITS), pattern).several == {"P1": ("P1_t0", "P1_t1")}


ROWS = "P1_t0{0}P1\nP1_t1{0}P1\nP2_t0{0}P2\nP3_t0{0}P3\n"
COMMA = ROWS.format(",")


@pytest.mark.parametrize(
    "content",
    [
        b"case,patient\n" + COMMA.encode(),
        b"\xef\xbb\xbfcase;patient\r\n" + ROWS.format(";").replace("\n", "\r\n").encode(),
        b"Case_ID\tSubject\n" + ROWS.format("\t").encode(),
        b"ID , GROUP\n" + ROWS.format(" , ").encode(),
        b"image,who\n" + COMMA.encode(),
        b"scan,patient_id\n" + COMMA.encode(),
        b"\ncase,patient\n\n" + COMMA.encode() + b"\n\n",
        b'"case","patient"\n"P1_t0","P1"\n"P1_t1","P1"\n"P2_t0","P2"\n"P3_t0","P3"',
        b"patient,age,case\nP1,50,P1_t0\nP1,51,P1_t1\nP2,,P2_t0\nP3,7,P3_t0\nP9,1,another data set's\n",
    ],
    ids=range(9),
)
@pytest.mark.parametrize("name", ["p.csv", "p 1.TSV"])
def test_a_table_tells(content: bytes, name: str, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = current_patients(workspace, dataset(*VISITS, unlabelled=("Q",)), str(tmp_path / name))
    assert found == Patients(source="table", rule=str(tmp_path / name), patient_of=BY_PATIENT)


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "{}.nii.gz",
        "{}_0000",
        "{}_0001.nii.gz",
        "imagesTr/{}_0000.nii.gz",
        "/data/labelsTr/{}.nii.gz",
        r"C:\data\{}_0000.nii.gz",
    ],
)
def test_a_table_names_cases_by_their_files(form: str, workspace: Workspace, tmp_path: Path) -> None:
    rows = "".join(f"{form.format(case)},{patient}\n" for case, patient in BY_PATIENT.items())
    (tmp_path / "p.csv").write_text(f"case,patient\n{rows}")
    assert current_patients(workspace, dataset(*VISITS), str(tmp_path / "p.csv")).patient_of == BY_PATIENT


def test_a_table_may_have_a_row_for_every_channel(workspace: Workspace, tmp_path: Path) -> None:
    rows = [f"{case}_{channel:04d}.nii.gz,{who}" for case, who in BY_PATIENT.items() for channel in range(2)]
    (tmp_path / "p.csv").write_text("\n".join(["image,patient", *rows]))
    assert current_patients(workspace, dataset(*VISITS), str(tmp_path / "p.csv")).patient_of == BY_PATIENT


def test_an_id_that_looks_like_a_channel_is_itself(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("case,patient\nscan,A\nscan_0001,B\n")
    found = current_patients(workspace, dataset("scan", "scan_0001"), str(tmp_path / "p.csv"))
    assert found.patient_of == {"scan": "A", "scan_0001": "B"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the table is empty"),
        (b"\n\n", "the table is empty"),
        (COMMA.encode(), "does not tell which column"),
        (b"case,name,age\nP1_t0,x,1\n", "found case, name, age, expected one of case"),
        (b"case,patient,case\nP1_t0,P1,P1_t0\n", "does not tell"),
        (b"case\nP1_t0\n", "does not tell"),
        (b"case,patient\n" + COMMA.encode() + b"P4_t0,\n", "line 6 of the table names no patient"),
        (b"case,patient\n,P1\n", "line 2 of the table names no case"),
        (b"case,patient\n,\n", "line 2 of the table names no case"),
        (b"case,patient\nP1_t0\n", "line 2 of the table has 1 cells under 2 columns"),
        (b"case,patient\nP1_t0,P1,x\n", "line 2 of the table has 3 cells under 2 columns"),
        (b"case,patient\n" + COMMA.encode() + b"P1_t0,P1\n", "line 6 of the table names the case P1_t0 once more"),
        (b"case,patient\nP1_t0,P1\nP1_t0_0001,P2\n", "line 3 of the table gives the case P1_t0 to P2, .* to P1"),
        (b"case,patient\nP1_t0,P1\nP2_t0,P2\n", "for 2 of 4 annotated cases; found no row for P1_t1, P3_t0"),
        ("case,patient\nP1_t0,Zoë\n".encode("latin-1"), "not UTF-8"),
        ("case,patient\nP1_t0,P1\n".encode("utf-16")[:-1], "not UTF-8"),
        (b'case,patient\nP1_t0,"P1"x\n', "line 2 of the table cannot be read"),
        (b'case,patient\nP1_t0,"P1\n', "cannot be read"),
        (b"PK\x03\x04\x00\x00\x00", "does not tell|cannot be read|not UTF-8"),
    ],
)
def test_a_table_that_does_not_tell_is_refused(content: bytes, message: str, workspace: Workspace, tmp_path: Path):
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        current_patients(workspace, dataset(*VISITS), str(tmp_path / "p.csv"))
    assert str(tmp_path / "p.csv") in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["nowhere.csv", "no folder/patients.TSV", "\0.csv"])
def test_a_table_that_is_not_there_is_not_taken_for_a_pattern(name: str, workspace: Workspace) -> None:
    assert "there is no such table" in refusal(workspace, dataset(*VISITS), name)


def test_another_kind_of_file_is_not_taken_for_a_pattern(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "patients.xlsx").write_bytes(b"PK")
    assert "Save the table as CSV" in refusal(workspace, dataset(*VISITS), tmp_path / "patients.xlsx")


def test_a_pattern_is_remembered_and_holds_for_new_cases(workspace: Workspace) -> None:
    remember(workspace, current_patients(workspace, dataset(*VISITS), r"P\d"))
    again = current_patients(workspace, dataset(*VISITS, "P3_t1"))
    assert (again.source, again.patient_of["P3_t1"]) == ("pattern", "P3")
    text = refusal(workspace, dataset(*VISITS, "Q3"), None)
    assert "for 1 of 5 annotated cases; found Q3" in text
    assert str(workspace.patients_path) in text


@pytest.fixture
def table(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table that was used for a planning, named from its folder."""
    (tmp_path / "p.csv").write_text("case,patient\n" + COMMA)
    monkeypatch.chdir(tmp_path)
    remember(workspace, current_patients(workspace, dataset(*VISITS), "p.csv"))
    monkeypatch.chdir("/")
    return tmp_path / "p.csv"


def test_a_table_is_remembered_and_read_again(workspace: Workspace, table: Path) -> None:
    assert current_patients(workspace, dataset(*VISITS)).patient_of == BY_PATIENT
    assert "no row for P3_t1" in refusal(workspace, dataset(*VISITS, "P3_t1"), None)
    table.write_text("case,patient\n" + COMMA + "P3_t1,P3\n")
    assert current_patients(workspace, dataset(*VISITS, "P3_t1")).patient_of["P3_t1"] == "P3"


def test_when_a_table_is_gone_its_patients_are_remembered(workspace: Workspace, table: Path) -> None:
    table.unlink()
    found = current_patients(workspace, dataset(*VISITS[1:]))
    assert found == Patients(
        source="table", rule=str(table), patient_of={case: BY_PATIENT[case] for case in VISITS[1:]}
    )
    text = refusal(workspace, dataset(*VISITS, "P3_t1"), None)
    assert "the table of patients is gone" in text
    assert "found P3_t1" in text
    assert "--group-by" in text


def test_another_rule_takes_the_place_of_the_remembered_one(workspace: Workspace, table: Path) -> None:
    assert current_patients(workspace, dataset(*VISITS), r"P\d").source == "pattern"


def test_joined_cases_have_one_patient_with_all_that_the_others_had() -> None:
    patients = Patients(source="names", patient_of={"a": "a", "b1": "b", "b2": "b", "c": "c", "d": "d"})
    assert joined(patients, []) == patients
    made = joined(patients, [("a", "b2"), ("c", "b1")])
    assert made.several == {"c": ("a", "b1", "b2", "c")}
    assert made.joined
    assert made.patient_of["d"] == "d"


def stated(*patients: str | None) -> Dataset:
    """A data set that names the patients of its cases."""
    base = dataset(*ids(len(patients)))
    cases = [msgspec.structs.replace(case, patient=who) for case, who in zip(base.cases, patients, strict=True)]
    return msgspec.structs.replace(base, cases=tuple(cases), layout="BIDS")


def test_patients_that_the_data_set_names_come_before_those_of_the_names(workspace: Workspace) -> None:
    found = current_patients(workspace, stated("Ada", "Bo", "Ada"))
    assert (found.source, found.rule, found.stated) == ("dataset", "BIDS", True)
    assert found.several == {"Ada": ("case_000", "case_002")}
    remember(workspace, found)
    assert current_patients(workspace, stated("Ada", "Ada", "Bo")).several == {"Ada": ("case_000", "case_001")}
    assert current_patients(workspace, dataset(*ids(3))).source == "names"  # it says nothing any more


def test_what_the_user_says_overrules_what_the_data_set_names(workspace: Workspace) -> None:
    found = current_patients(workspace, stated("Ada", "Bo", "Ada"), ".*")
    assert (found.source, found.several) == ("pattern", {})
    remember(workspace, found)
    assert current_patients(workspace, stated("Ada", "Bo", "Ada")).source == "pattern"


def test_a_data_set_that_names_some_patients_only_is_refused(workspace: Workspace) -> None:
    assert "none for 2; found case_001, case_003" in refusal(workspace, stated("Ada", None, "Bo", None), None)
