"""The whole way from Python instead of the command line, on phantoms: python examples/whole_way_in_python.py FOLDER."""

import sys
from pathlib import Path

from autoseg import Workspace, evaluate, plan_dataset, predict, train
from autoseg.phantom import write_phantom_dataset


def main(folder: Path) -> None:
    """Makes data, plans, trains one fold of the 2D configuration for a moment, predicts and scores."""
    dataset = write_phantom_dataset(folder / "Dataset001_Phantom", cases=5)
    write_phantom_dataset(dataset, cases=1, seed=100, train=False)
    workspace = Workspace(folder / "autoseg-workspace")

    planned = plan_dataset(dataset, workspace, configurations=["2d"])
    print("patch size", planned.plan.configuration("2d").patch_size)

    [trained] = train(workspace, "2d", "0", iterations=10, device="cpu")
    print("validation Dice", trained.summary.foreground_mean.dice)

    predicted = predict(dataset / "imagesTs", folder / "predictions", workspace=workspace, device="cpu")
    print("label maps", *(file.name for file in predicted.files.values()))

    summary = evaluate(folder / "predictions", dataset / "labelsTs", workspace=workspace)
    print("Dice of new cases", summary.foreground_mean.dice)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
