"""How much two configurations see in plane."""

from __future__ import annotations

from autoseg.values import Configuration

__all__ = ["field_in_plane"]


def field_in_plane(first: Configuration, second: Configuration) -> tuple[int, int]:
    """The patch in voxels of a 2D configuration that sees as much in plane as a 3D one, as near as its network takes.

    Args:
        first: the 3D configuration.
        second: the 2D configuration, whose voxels are counted.
    """
    edges = []
    for axis, divisor in enumerate(second.network.divisor):
        of_first, of_second = first.spacing[axis + 1], second.spacing[axis + 1]
        same = of_first is None or of_second is None  # both keep that of the case
        scale = 1.0 if same else of_first / of_second  # type: ignore[operator]
        edges.append(max(1, round(first.patch_size[axis + 1] * scale / divisor)) * divisor)
    return edges[0], edges[1]
