"""Run by nnU-Net's own Python: makes a results folder with its trainer, and logits of its network for a fixed input.

Arguments: the folder to make, the configuration.
"""

import json
import os
import sys
from pathlib import Path

folder, configuration = Path(sys.argv[1]), sys.argv[2]
for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[name] = str(folder / name)
os.environ["nnUNet_compile"] = "f"  # noqa: SIM112

import numpy as np  # noqa: E402
import torch  # noqa: E402
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: E402

plans, dataset = (json.loads((folder / name).read_text()) for name in ("plans.json", "dataset.json"))
identifier = plans["configurations"][configuration]["data_identifier"]
cases = folder / "nnUNet_preprocessed" / plans["dataset_name"] / identifier
cases.mkdir(parents=True)
(cases / "case.npz").touch()  # whose ending tells the trainer how cases are stored
trainer = nnUNetTrainer({**plans, "continue_training": False}, configuration, 0, dataset, device=torch.device("cpu"))
trainer.initialize()
for key in ("train_losses", "val_losses", "mean_fg_dice", "lrs"):
    for epoch in range(2):
        trainer.logger.log(key, np.float64(0.1), epoch)
shape = (1, len(dataset["channel_names"]), *plans["configurations"][configuration]["patch_size"])
sum(output.square().mean() for output in trainer.network(torch.randn(shape))).backward()
trainer.optimizer.step()
results = Path(trainer.output_folder)
results.mkdir(parents=True, exist_ok=True)
trainer.save_checkpoint(str(results / "checkpoint_final.pth"))
for name, document in (("plans.json", plans), ("dataset.json", dataset)):
    (results.parent / name).write_text(json.dumps(document))
image = torch.arange(torch.tensor(shape).prod()).reshape(shape).float().sin()
with torch.no_grad():
    outputs = trainer.network.eval()(image)
torch.save({"logits": outputs[0] if isinstance(outputs, (list, tuple)) else outputs}, folder / "logits.pt")
print(results)
