"""Finds the weights to begin with: in a model folder of ours, in one of nnU-Net's, or a file in either."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autoseg.errors import InputError
from autoseg.files import content_hash, read_document
from autoseg.finetuning import nnunet
from autoseg.networks.adoption import Names
from autoseg.networks.foreign import load_checkpoint
from autoseg.networks.weights import load_tensors
from autoseg.values import Plan, TrainJob
from autoseg.values.adoption import Template, TemplateConfiguration
from autoseg.workspace import ModelFolder

__all__ = ["Source", "find_source", "find_template", "names_of"]

#: nnU-Net's checkpoints, the best to begin with first.
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights to begin with.

    Attributes:
        file: that holds them.
        title: of the model, in words.
        template: what the model was made for; None for a file that stands alone, and for the second stage of a cascade.
        second_stage_of: plan of the model, if it is such a stage, whose inputs no image has.
        job: what it was trained on, if that is known.
        dataset: name of the data set that it was trained on; empty if it is not known.
    """

    file: Path
    title: str
    template: Template | None
    job: TrainJob | None = None
    dataset: str = ""
    second_stage_of: Plan | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file."""
        return content_hash(self.file)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights by name."""
        return load_checkpoint(self.file)[0] if self.file.suffix == ".pth" else load_tensors(self.file)[0]

    @property
    def names(self) -> Names:
        """What the network's inputs and outputs are called."""
        model = self.template or self.second_stage_of
        return names_of(model) if model else Names(channels=None, outputs=None)


def names_of(model: Plan | Template) -> Names:
    """What a network of the plan takes and gives."""
    labels = model.labels
    return Names(channels=model.channels, outputs=labels.output_names, has_regions=labels.has_regions)


def find_source(path: Path, configuration: str, fold: str) -> Source:
    """The weights that a path names.

    Args:
        path: a model folder, a fold's folder or a weight file, ours or nnU-Net's.
        configuration: preferred where the folder holds several.
        fold: preferred where several are trained; else the model of all cases, else the first.

    Raises:
        InputError: there is no model, or it is not clear which.
    """
    if path.suffix == ".safetensors" or (path / "model.safetensors").is_file():
        return _our_source(path if path.is_file() else path / "model.safetensors")
    if path.suffix == ".pth":
        return _nnunet_source(path)
    if (path / "plan.json").is_file():
        return _our_source(_our_file(ModelFolder(path), configuration, fold))
    if found := _nnunet_file(path, fold):
        return _nnunet_source(found)
    raise _no_model(path)


def find_template(path: Path) -> Template:
    """What a plan can be made around; it may name code of somebody's file, none of which is run here.

    Raises:
        InputError: there is no model, or it does not tell how it was made.
    """
    if (path / "plan.json").is_file():
        return _our_template(ModelFolder(path).plan())
    source = find_source(path, "", "0")
    if source.template is None:
        remedy = "Name the model folder, with plan.json in it."
        raise InputError("the weights alone do not tell how their network is made", file=path, remedy=remedy)
    return source.template


def _no_model(path: Path) -> InputError:
    return InputError(
        "there is no model to begin with" if path.exists() else "there is no such file or folder",
        file=path,
        expected="a model folder (with plan.json), its model.safetensors, an nnU-Net v2 results folder "
        "(with plans.json and fold_0/checkpoint_final.pth), or such a checkpoint",
    )


def _our_file(model: ModelFolder, configuration: str, fold: str) -> Path:
    trained = {name: folds for name in model.plan().names if (folds := model.trained(name))}
    if not trained:
        raise InputError("no training of this model has ended", file=model.path)
    if configuration not in trained and len(trained) > 1:
        raise InputError(
            f"the model has no {configuration!r}",
            file=model.path,
            expected=" or ".join(trained),
            remedy="Name one of its folders: MODEL/CONFIGURATION/fold_0",
        )
    name = configuration if configuration in trained else next(iter(trained))
    folds = trained[name]
    return model.fold(name, fold if fold in folds else "full" if "full" in folds else folds[0]).model


def _our_source(file: Path) -> Source:
    if not file.is_file():
        raise _no_model(file)
    folder = file.absolute().parent
    model = ModelFolder(folder.parents[1]) if len(folder.parents) > 1 else None
    if model is None or not (model.path / "plan.json").is_file():
        return Source(file=file, title="weights without a plan", template=None)
    plan, job = model.plan(), None
    with contextlib.suppress(InputError):  # it is needed for a warning only
        job = read_document(TrainJob, folder / "job.json")
    title = f"the plan {plan.name}, {folder.parent.name}, {folder.name}"
    known = Source(file=file, title=title, template=None, job=job, dataset=plan.dataset)
    if any(each.name == folder.parent.name and each.previous_stage for each in plan.configurations):
        return replace(known, second_stage_of=plan)
    return replace(known, template=_our_template(plan, [folder.parent.name]))


def _our_template(plan: Plan, configurations: Sequence[str] = ()) -> Template:
    alone = [each for each in plan.configurations if each.previous_stage is None]
    return Template(
        source=f"the plan {plan.name} of {plan.dataset}",
        channels=plan.channels,
        labels=plan.labels,
        orientation=plan.orientation,
        axis_order=plan.axis_order,
        normalization=plan.normalization,
        configurations=tuple(
            TemplateConfiguration(
                name=each.name,
                spacing=each.spacing,
                patch_size=each.patch_size,
                network=each.network,
                resampling=each.resampling,
            )
            for each in alone
            if not configurations or each.name in configurations
        ),
    )


def _nnunet_file(folder: Path, fold: str) -> Path | None:
    """The checkpoint in a fold's folder, in a results folder, or in the only results folder of a data set's folder."""
    for name in CHECKPOINTS:
        if (folder / name).is_file():
            return folder / name
    if (folder / "plans.json").is_file():
        folds = sorted(path for path in folder.glob("fold_*") if any((path / name).is_file() for name in CHECKPOINTS))
        wanted = [folder / f"fold_{each}" for each in (fold, "all")]
        return next((_nnunet_file(each, fold) for each in (*wanted, *folds) if each in folds), None)
    results = sorted(path.parent for path in folder.glob("*__*__*/plans.json"))
    if len(results) > 1:
        raise InputError(
            "this folder holds several models of nnU-Net",
            file=folder,
            expected=f"one of {', '.join(p.name for p in results)}",
        )
    return _nnunet_file(results[0], fold) if results else None


def _nnunet_source(file: Path) -> Source:
    folder = file.absolute().parent.parent
    if (folder / "plans.json").is_file() and (folder / "dataset.json").is_file():
        configuration = folder.name.rpartition("__")[2]
        template = nnunet.read_template(folder, configuration)
        return Source(file=file, title=f"nnU-Net's {folder.name}, {file.parent.name}", template=template)
    _, made_with = load_checkpoint(file)
    template = nnunet.template_of(made_with, file)
    return Source(file=file, title=f"nnU-Net's checkpoint {file.name}", template=template)
