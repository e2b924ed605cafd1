"""Where output may go: never among the input, nor through a link that leads out of the folder that the user named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autoseg.errors import InputError

__all__ = ["check_no_links_out", "check_outside"]


def check_no_links_out(folder: Path, is_output: Callable[[str], bool] = lambda name: True) -> None:
    """Sees to it that no output would be written where a link leads, outside of the output folder.

    The folder itself may be a link: its user named it. Inputs may be links, too.

    Args:
        folder: for output; it need not be there yet.
        is_output: whether a file or folder of that name, directly in the folder, would be written or replaced.

    Raises:
        InputError: there are such links.
    """
    if not folder.is_dir():
        return
    home = folder.resolve()
    out = [
        path
        for path in sorted(folder.iterdir())
        if path.is_symlink() and is_output(path.name) and not path.resolve().is_relative_to(home)
    ]
    if out:
        raise InputError(
            "links in the output folder lead out of it, and output would take their place",
            file=folder,
            found=", ".join(f"{path.name} -> {path.readlink()}" for path in out[:5]) + (" …" if len(out) > 5 else ""),
            expected="files and folders of its own",
            remedy="Remove the links, or name another folder.",
        )


def check_outside(target: Path, source: Path, *, whole: bool) -> None:
    """Refuses to write among the input images, where a label map could take the name of an image."""
    target, source = target.resolve(), source.resolve()
    for existing in (target, *target.parents):
        if existing.is_file():
            raise InputError(
                "the output folder is a file, or lies in one", file=existing, remedy="Name a folder with -o."
            )
    if target == source or (whole and target.is_relative_to(source)):
        raise InputError(
            "the output folder is the input folder, or lies inside it",
            file=target,
            remedy="Name a folder outside of it with -o.",
        )
