"""What a user may want otherwise than the planner: options of ``autoseg plan`` and how their texts are read."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from autoseg.planning import Wishes
from autoseg.values import Parts

__all__ = ["GibibytesOrAuto", "part_options", "read_names", "read_wishes", "wish_options"]

F = TypeVar("F", bound=Callable[..., Any])
#: Kinds of plugs that a command may name, and what each is.
PARTS = {
    "network": "Builds the network",
    "loss": "What training makes small",
    "recipe": "Augments patches",
    "optimizer": "Moves the weights",
    "schedule": "Gives the learning rate of every iteration",
}
_NUMBER = r"(\d+(\.\d*)?|\.\d+)"


class GibibytesOrAuto(click.ParamType):  # type: ignore[type-arg]
    """A number of GiB, or the word auto."""

    name = "GIB|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """See click."""
        if value == "auto" or isinstance(value, float):
            return value
        if not re.fullmatch(_NUMBER, str(value)):
            self.fail(f"{value!r} is neither a number of GiB nor auto", param, ctx)
        return float(value)


def wish_options(command: F) -> F:
    """The options ``--patch-size``, ``--batch-size``, ``--spacing`` and ``--normalization``."""
    options = [
        click.option(
            "--patch-size",
            "patch_sizes",
            metavar="[CONFIGURATION=]Z,Y,X",
            multiple=True,
            help="Voxels of the patch, in the order in which the plan prints axes; two numbers for 2d. Snapped to the "
            "nearest that the poolings divide. May be repeated.",
        ),
        click.option(
            "--batch-size",
            "batch_sizes",
            metavar="[CONFIGURATION=]N",
            multiple=True,
            help="Patches per iteration; the patch shrinks if they do not fit the memory. May be repeated.",
        ),
        click.option(
            "--spacing",
            metavar="Z,Y,X",
            help="Spacing of full resolution in mm, in the order in which the plan prints axes.",
        ),
        click.option(
            "--normalization",
            "normalizations",
            metavar="CHANNEL=SCHEME",
            multiple=True,
            help="Of a channel, by name or number: ct, zscore, none, rescale_to_0_1, rgb_to_0_1. May be repeated.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def part_options(command: F) -> F:
    """The options ``--network``, ``--loss``, ``--recipe``, ``--optimizer`` and ``--schedule``, as one argument ``parts``."""

    @functools.wraps(command)
    def with_parts(*arguments: Any, **options: Any) -> Any:
        chosen = {kind: options.pop(kind) or "" for kind in PARTS}
        return command(*arguments, parts=Parts(**chosen), **options)

    result: Any = with_parts
    for kind, what in reversed(PARTS.items()):
        result = click.option(f"--{kind}", metavar="NAME", help=f"{what}: an installed one, or MODULE:NAME.")(result)
    return result


def read_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Names of an option that may be repeated, or list several with commas."""
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())


def read_wishes(
    patch_sizes: Sequence[str], batch_sizes: Sequence[str], spacing: str | None, normalizations: Sequence[str]
) -> Wishes:
    """The wishes from the options' texts.

    Raises:
        click.BadParameter: a text that cannot be read, or a number that is out of range.
    """
    channels = []
    for text in normalizations:
        channel, equals, scheme = text.rpartition("=")
        if not equals or not channel or not scheme:
            raise click.BadParameter(f"{text!r} is not of the form CHANNEL=SCHEME", param_hint="--normalization")
        channels.append((channel, scheme.strip().casefold() if ":" not in scheme else scheme))
    try:
        return Wishes(
            patch_sizes=tuple((name, _whole(size, "--patch-size")) for name, size in map(_named, patch_sizes)),
            batch_sizes=tuple((name, _whole(size, "--batch-size", 1)[0]) for name, size in map(_named, batch_sizes)),
            spacing=_numbers(spacing, "--spacing") if spacing else (),
            normalization=tuple(channels),
        )
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _named(text: str) -> tuple[str, str]:
    name, _, rest = text.rpartition("=")
    return name.strip(), rest


def _numbers(text: str, option: str) -> tuple[float, ...]:
    parts = [part for part in re.split(r"[,x ]+", text.strip()) if part]
    if not parts or not all(re.fullmatch(_NUMBER, part) for part in parts):
        raise click.BadParameter(f"{text!r} is no list of numbers such as 128,128,96", param_hint=option)
    return tuple(float(part) for part in parts)


def _whole(text: str, option: str, count: int | None = None) -> tuple[int, ...]:
    numbers = _numbers(text, option)
    if not all(number.is_integer() for number in numbers) or (count and len(numbers) != count):
        raise click.BadParameter(f"{text!r}: whole numbers are needed here", param_hint=option)
    return tuple(int(number) for number in numbers)
