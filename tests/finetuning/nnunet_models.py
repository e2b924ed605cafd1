"""nnU-Net's documents and checkpoints in their documented form, small."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

STRIDES = {2: [[1, 1], [2, 2], [2, 2]], 3: [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}


def architecture(kind: str, dimensions: int) -> dict[str, Any]:
    """As plans hold it."""
    residual = kind == "ResidualEncoderUNet"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [8, 16, 16],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * 3,
            "strides": STRIDES[dimensions],
            "n_blocks_per_stage" if residual else "n_conv_per_stage": [1, 2, 2],
            "n_conv_per_stage_decoder": [1, 2],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans(kind: str = "PlainConvUNet", configuration: str = "3d_fullres", channels: int = 2) -> dict[str, Any]:
    """``plans.json`` of one configuration."""
    dimensions = 2 if configuration == "2d" else 3
    statistics = {
        "max": 100.0,
        "mean": 50.0,
        "median": 51.0,
        "min": 0.0,
        "percentile_00_5": 1.0,
        "percentile_99_5": 99.0,
        "std": 10.0,
    }
    return {
        "dataset_name": "Dataset777_Peer",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 1.0, 1.0],
        "original_median_shape_after_transp": [8, 24, 24],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(place): statistics for place in range(channels)},
        "configurations": {
            configuration: {
                "data_identifier": f"nnUNetPlans_{configuration}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [16, 16] if dimensions == 2 else [8, 16, 16],
                "median_image_size_in_voxels": [24.0, 24.0] if dimensions == 2 else [8.0, 24.0, 24.0],
                "spacing": [1.5, 1.25] if dimensions == 2 else [4.0, 1.5, 1.25],
                "normalization_schemes": ["CTNormalization", *["ZScoreNormalization"] * (channels - 1)],
                "use_mask_for_norm": [False] * channels,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {
                    "is_seg": False,
                    "order": 1,
                    "order_z": 0,
                    "force_separate_z": None,
                },
                "architecture": architecture(kind, dimensions),
                "batch_dice": False,
            }
        },
    }


def old_form(document: dict[str, Any], configuration: str) -> dict[str, Any]:
    """The same plans as nnU-Net wrote them up to 2.3."""
    stated = document["configurations"][configuration]
    told = stated.pop("architecture")["arch_kwargs"]
    stated |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": told["features_per_stage"][0],
        "unet_max_num_features": max(told["features_per_stage"]),
        "n_conv_per_stage_encoder": told["n_conv_per_stage"],
        "n_conv_per_stage_decoder": told["n_conv_per_stage_decoder"],
        "conv_kernel_sizes": told["kernel_sizes"],
        "pool_op_kernel_sizes": told["strides"],
        "num_pool_per_axis": [1, 2, 2],
    }
    return document


def dataset(channels: tuple[str, ...] = ("CT", "PET"), labels: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``dataset.json``."""
    return {
        "channel_names": {str(place): name for place, name in enumerate(channels)},
        "labels": {"background": 0, **(labels or {"liver": 1, "spleen": 2})},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }


def their_network(document: dict[str, Any], inputs: int, outputs: int, configuration: str) -> nn.Module:
    """nnU-Net's own network class of a plan."""
    from dynamic_network_architectures.architectures import unet

    stated = document["configurations"][configuration]["architecture"]
    told = dict(stated["arch_kwargs"])
    for key in stated["_kw_requires_import"]:
        told[key] = None if told[key] is None else getattr(nn, told[key].rpartition(".")[2])
    kind = getattr(unet, stated["network_class_name"].rpartition(".")[2])
    torch.manual_seed(3)
    network = kind(input_channels=inputs, num_classes=outputs, deep_supervision=False, **told)
    with torch.no_grad():
        for parameter in network.parameters():  # what is zero at first would hide that it is lost
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return network


def results_folder(
    folder: Path, plan: dict[str, Any], stated: dict[str, Any], weights: Mapping[str, Any], configuration: str
) -> Path:
    """A results folder with a checkpoint as nnU-Net writes it, learning curves in NumPy's numbers included."""
    path = folder / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    (path / "fold_0").mkdir(parents=True)
    (path / "plans.json").write_text(json.dumps(plan))
    (path / "dataset.json").write_text(json.dumps(stated))
    checkpoint = {
        "network_weights": dict(weights),
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.25)], "lrs": [0.01]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 2,
        "init_args": {"plans": plan, "configuration": configuration, "fold": 0, "dataset_json": stated},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(checkpoint, path / "fold_0" / "checkpoint_final.pth")
    return path
