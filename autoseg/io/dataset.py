"""Where these names lived before there were several layouts: see ``autoseg.io.layouts``."""

from autoseg.io.layouts import read_dataset, read_inputs, read_labels_of, read_split

__all__ = ["read_dataset", "read_inputs", "read_labels_of", "read_split"]
