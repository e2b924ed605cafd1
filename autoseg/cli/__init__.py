"""The command line: arguments to one pipeline call each. Only this package takes options from the environment, prints
and exits.

Nothing heavy is imported before a command runs, so that ``--help`` is instant.
"""

from __future__ import annotations

import io
import sys

import click

from autoseg import __version__
from autoseg.cli.benchmark import benchmark
from autoseg.cli.check import check
from autoseg.cli.compare import compare
from autoseg.cli.convert import convert
from autoseg.cli.data import plan, preprocess
from autoseg.cli.demo import demo
from autoseg.cli.export import export
from autoseg.cli.models import evaluate, predict, train
from autoseg.cli.replay import replay
from autoseg.cli.run import run
from autoseg.cli.select import select
from autoseg.cli.status import status
from autoseg.errors import AutosegError, FollowedError
from autoseg.together import own_place

__all__ = ["autoseg", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="autoseg")
def autoseg() -> None:
    """Segment medical images: plan, train and predict, configured by your own data.

    \b
    autoseg check DATASET             find everything that is wrong with the data
    autoseg run DATASET               everything, from the folder to the selected model
    autoseg status                    what is there, what is missing, what to type next
    autoseg plan DATASET              look at the data, plan networks that fit it
    autoseg train 3d_fullres 0        train one fold
    autoseg select                    choose the configuration or ensemble that predicts
    autoseg compare                   is 3D better than 2D here, and how sure is that
    autoseg predict -i DIR -o DIR     segment new images with the best model
    autoseg export -o MODEL.zip       the selected model in one file, for others
    autoseg evaluate -p DIR -r DIR    score against references
    """


for command in (
    check,
    run,
    status,
    plan,
    preprocess,
    train,
    replay,
    compare,
    select,
    predict,
    export,
    evaluate,
    convert,
    demo,
    benchmark,
):
    autoseg.add_command(command)


def main() -> None:
    """Entry point: runs a command and turns its errors into one message and an exit code.

    Exit codes: 0 done, 1 some cases failed, 2 wrong input, 130 interrupted (repeat the command to go on).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character still gets the rest
    try:
        autoseg.main(prog_name="autoseg", standalone_mode=False)
    except FollowedError as error:
        sys.exit(error.exit_code)
    except AutosegError as error:
        if error.exit_code != 130:
            click.secho("error: ", fg="red", bold=True, nl=False, err=True)
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        if own_place().first:  # the others were given the same arguments
            error.show()
        sys.exit(2)
    except OSError as error:
        name = f" [{error.filename}]" if error.filename else ""
        click.echo(
            f"error: {error.strerror or error}{name}. What is done is kept; repeat the command to go on.", err=True
        )
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        if own_place().first:
            click.echo("stopped: what is done is kept; repeat the command to go on", err=True)
        sys.exit(130)
