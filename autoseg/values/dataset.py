"""What the user brought: Dataset, its Cases and Labels."""

from __future__ import annotations

from collections.abc import Collection

from autoseg.values.json_form import Value, require, require_file_name, same_file_name

__all__ = ["TABLE", "Case", "Dataset", "Label", "Labels"]

#: The layout of data sets that a table lists, whose files may lie anywhere.
TABLE = "a table of paths"


class Label(Value, frozen=True, kw_only=True):
    """A name and the integers of the label files that belong to it; more than one integer makes it a region."""

    name: str
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        require(len(self.values) > 0, f"label {self.name!r} has no values")
        require(len(set(self.values)) == len(self.values), f"label {self.name!r} repeats a value")
        require(all(0 <= value < 2**15 for value in self.values), f"label {self.name!r} has a value outside 0..32767")


class Labels(Value, frozen=True, kw_only=True):
    """The labels of a data set.

    Three numberings meet here:

    ========================  ==========================================================================
    integer                   what label files hold: any gaps, any order of declaration
    position in ``integers``  what arrays hold inside autoseg, and the network's output channel of a label
    1 + place in foreground   what ``StoredCase.locations`` is keyed by; with regions, the order of outputs
    ========================  ==========================================================================

    Attributes:
        foreground: every label or region except background, in the order of declaration.
        ignore: the integer of voxels that nobody annotated, if there is one.
        region_values: with regions, the integer that each foreground entry gets in a label map; later entries
            overwrite earlier ones. Empty without regions.
        palette: where label files are pictures with a palette, the colour (red, green, blue) of every integer from 0 on;
            label maps are written with it. Empty otherwise.
    """

    foreground: tuple[Label, ...]
    ignore: int | None = None
    region_values: tuple[int, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self) -> None:
        require(len(self.foreground) > 0, "there is no label besides background")
        names = [label.name for label in self.foreground]
        require(len(set(names)) == len(names), f"label names repeat: {names}")
        values = [value for label in self.foreground for value in label.values]
        require(self.ignore is None or self.ignore not in values, f"ignore value {self.ignore} is also a label")
        require(self.ignore is None or 0 < self.ignore < 2**15, f"ignore must be within 1..32767, not {self.ignore}")
        require(all(0 <= value < 2**16 for value in self.region_values), "regions_class_order must be within 0..65535")
        require(len(self.palette) <= 256, f"a palette has at most 256 colours, not {len(self.palette)}")
        require(all(0 <= part < 256 for colour in self.palette for part in colour), "colours must be within 0..255")
        if self.has_regions:
            require(
                len(self.region_values) == len(self.foreground),
                f"regions need one written value each: {len(self.foreground)} regions, "
                f"{len(self.region_values)} values in regions_class_order",
            )
        else:
            require(len(set(values)) == len(values), "two labels share a value")
            require(0 not in values, "0 is background and cannot be another label")
            require(not self.region_values, "region_values are given, but no label is a region")

    @property
    def has_regions(self) -> bool:
        """True if any label joins several integers; the network then has one sigmoid output per entry."""
        return any(len(label.values) > 1 for label in self.foreground)

    @property
    def integers(self) -> tuple[int, ...]:
        """All integers that label files may hold, background first, ignore excluded.

        Inside autoseg a voxel holds the position in this list, so that gaps between integers do not matter.
        """
        return tuple(sorted({0, *(value for label in self.foreground for value in label.values)}))

    @property
    def allowed_integers(self) -> tuple[int, ...]:
        """All integers that label files may hold, the ignore label included."""
        return self.integers if self.ignore is None else tuple(sorted((*self.integers, self.ignore)))

    @property
    def ignore_index(self) -> int | None:
        """The integer that stands for the ignore label inside autoseg, or None."""
        return None if self.ignore is None else len(self.integers)

    @property
    def region_indices(self) -> tuple[tuple[int, ...], ...]:
        """For each foreground entry the internal integers (positions in ``integers``) that belong to it."""
        position = {value: index for index, value in enumerate(self.integers)}
        return tuple(tuple(position[value] for value in label.values) for label in self.foreground)

    def looked_for(self, annotated: Collection[str] | None) -> tuple[bool, ...]:
        """For each foreground entry whether a case is known for it that is annotated for some of them; None for all.

        A region is known, too, if smaller ones that were looked for make it up together.
        """
        if annotated is None:
            return (True,) * len(self.foreground)
        named = [set(label.values) for label in self.foreground if label.name in annotated]
        return tuple(
            label.name in annotated
            or set(label.values) == set().union(*(values for values in named if values <= set(label.values)))
            for label in self.foreground
        )

    @property
    def output_count(self) -> int:
        """Output channels of a network: regions, or labels with background."""
        return len(self.foreground) if self.has_regions else len(self.integers)

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each output channel of a network stands for: regions, or labels with background."""
        if self.has_regions:
            return tuple(label.name for label in self.foreground)
        names = {label.values[0]: label.name for label in self.foreground}
        return tuple(names.get(value, "background") for value in self.integers)

    @property
    def declared_count(self) -> int:
        """Declared entries with background and ignore, as the memory estimate of nnU-Net counts them."""
        return len(self.foreground) + 1 + (self.ignore is not None)

    @property
    def written_values(self) -> tuple[int, ...]:
        """The integers that stand for the foreground entries in a label map that autoseg writes."""
        return self.region_values if self.has_regions else tuple(label.values[0] for label in self.foreground)

    @property
    def predicted_integers(self) -> tuple[int, ...]:
        """What a label map that autoseg writes holds for each channel that a cascade's next stage gets of it.

        That is one channel for each foreground entry: in the order of outputs, so that exchanging two labels exchanges their
        channels, or of the regions.
        """
        return self.region_values if self.has_regions else self.integers[1:]


class Case(Value, frozen=True, kw_only=True):
    """One image with its channels and, for training, its label map.

    Attributes:
        id: its name; names the files that are made from it.
        images: one file per channel (or a folder with a DICOM series), relative to the data set's root, with forward
            slashes.
        label: the label file, or None for an image without annotation.
        annotated: names of the labels that were looked for in this case; None for all of them.
        patient: who it shows, where the data set says so.
    """

    id: str
    images: tuple[str, ...]
    label: str | None = None
    annotated: tuple[str, ...] | None = None
    patient: str | None = None

    def __post_init__(self) -> None:
        require_file_name("case id", self.id)
        require(len(self.images) > 0, f"case {self.id} has no image")


class Dataset(Value, frozen=True, kw_only=True, tag_field="schema", tag="autoseg.dataset/1"):
    """The user's images and labels, as understood.

    Attributes:
        name: of the data set, usually its folder.
        root: absolute folder that the files are relative to; autoseg never writes there.
        channels: their names, in order; the name decides the normalization.
        labels: names and integers.
        file_ending: of labels and predictions, with its dot.
        cases: sorted by id; their ids are different files on every system.
        test: images that are kept apart for tests; nothing is measured on them, and nothing learned from them.
        layout: how the files are arranged, in words; empty where a program made the data set.
        inferred: what nobody stated and the files suggest, in words: to be confirmed by a person.
    """

    name: str
    root: str
    channels: tuple[str, ...]
    labels: Labels
    file_ending: str
    cases: tuple[Case, ...]
    test: tuple[Case, ...] = ()
    layout: str = ""
    inferred: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.channels) > 0, "a data set needs at least one channel")
        names = {label.name for label in self.labels.foreground}
        for case in self.cases:
            unknown = sorted(set(case.annotated or ()) - names)
            require(not unknown, f"case {case.id} is annotated for labels that are not declared: {', '.join(unknown)}")
        ids = [case.id for case in self.cases]
        require(ids == sorted(set(ids)), "cases must be sorted by id, each once")
        require(len({same_file_name(id_) for id_ in ids}) == len(ids), "case ids differ by letter case only")

    @property
    def annotated_cases(self) -> tuple[Case, ...]:
        """The cases that have a label file."""
        return tuple(case for case in self.cases if case.label is not None)

    @property
    def partly_annotated(self) -> tuple[Case, ...]:
        """The cases with a label file in which not every label was looked for."""
        return tuple(case for case in self.annotated_cases if not all(self.labels.looked_for(case.annotated)))
