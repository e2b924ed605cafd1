"""The only lookup from a name to code: an entry point, or ``module:name`` for a file of the user's own.

Groups are ``autoseg.<kind>``. Built-in parts are declared in ``setup.cfg`` like anybody else's; see docs/reference/plugs.md.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoseg.errors import MissingPartError, UnknownNameError
from autoseg.values import PartRecord

_PATH = re.compile(r"\w+(\.\w+)*:\w+")

__all__ = ["KINDS", "available", "identity", "load", "record", "require"]

#: Our own packages.
OWN = ("autoseg", "planners")
KINDS = (
    "planner",
    "network",
    "normalizer",
    "resampler",
    "format",
    "recipe",
    "loss",
    "optimizer",
    "schedule",
    "metric",
    "executor",
    "logger",
)


@functools.cache
def _entry_points(kind: str) -> Mapping[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"autoseg.{kind}")}


def available(kind: str) -> tuple[str, ...]:
    """Names of the installed plugs of a kind, sorted."""
    assert kind in KINDS, kind
    return tuple(sorted(_entry_points(kind)))


def load(kind: str, name: str) -> Any:
    """The object behind a plug's name.

    Args:
        kind: one of ``KINDS``.
        name: an entry point's name, or ``module:name``; a module in the current folder is found, too.

    Raises:
        UnknownNameError: no such entry point, or the module has no such name.
        MissingPartError: the code behind the name cannot be imported.
    """
    assert kind in KINDS, kind
    points = _entry_points(kind)
    if name in points:
        try:
            return points[name].load()
        except ImportError as error:
            raise MissingPartError(f"the {kind} {name!r} cannot be imported: {error}") from error
    if _PATH.fullmatch(name):
        return _load_path(kind, name)
    raise UnknownNameError(
        f"there is no {kind} {name!r}",
        expected=f"one of {', '.join(available(kind)) or 'none installed'}, or module:name",
        remedy="If it comes with another package, install that first.",
    )


def require(names: Mapping[str, str]) -> None:
    """Sees to it that plugs can be loaded.

    Args:
        names: kind to name.

    Raises:
        UnknownNameError: one does not exist.
        MissingPartError: the code of one cannot be imported.
    """
    for kind, name in names.items():
        load(kind, name)


def identity(kind: str, name: str) -> str:
    """A text that changes when the code behind a plug does: caches of what it computed are then made anew.

    That is the version of the package that an entry point comes with, or a hash of the user's own file.
    """
    points = _entry_points(kind)
    if name in points:
        distribution = points[name].dist
        own = distribution is None or distribution.name == "autoseg"  # our own code has a version of the format
        return name if distribution is None or own else f"{name} of {distribution.name} {distribution.version}"
    source = _source(kind, name)
    return f"{name} {hashlib.sha256(source.read_bytes()).hexdigest()}" if source else name


def record(kind: str, name: str) -> PartRecord | None:
    """Where the code behind a plug's name comes from; None for what comes with autoseg.

    Raises:
        UnknownNameError: no such plug.
        MissingPartError: the code behind the name cannot be imported.
    """
    point = _entry_points(kind).get(name)
    module = point.module if point else name.partition(":")[0]
    if module.partition(".")[0] in OWN:
        return None
    package = point.dist if point else None
    if package is not None and package.name:
        return PartRecord(kind=kind, name=name, package=package.name, version=package.version)
    source = _source(kind, name)
    if source is None:
        return None
    return PartRecord(kind=kind, name=name, file=source.name, sha256=hashlib.sha256(source.read_bytes()).hexdigest())


def _source(kind: str, name: str) -> Path | None:
    """The file that holds the code of a plug: where it is defined, or that is its module; None if there is none."""
    part = load(kind, name)
    try:
        source = inspect.getsourcefile(inspect.unwrap(part))
    except TypeError:  # an object with a state of its own, such as a partial function
        point = _entry_points(kind).get(name)
        source = getattr(sys.modules[point.module if point else name.partition(":")[0]], "__file__", None)
    return Path(source) if source else None


def _load_path(kind: str, path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's own file raises
        raise MissingPartError(f"the {kind} {path!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        raise UnknownNameError(f"the module {module_name!r} has no {kind} {attribute!r}")
    return getattr(module, attribute)
