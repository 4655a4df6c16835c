"""The laptop recipe for MNIST is the trial that the fit chose."""

from __future__ import annotations

import pandas as pd

from reproduce import published, records
from reproduce.papers import dqa


def test_the_recipe_is_the_trial_closest_to_the_published_relu_row():
    trials = pd.read_csv(records.root() / "fits" / "dqa-mnist-relu.csv").set_index("trial")
    table = published.load("dqa_table1").query("activation == 'relu'").set_index("attack")["value"]
    columns = {"clean (%)": "clean", "FGSM (%)": "fgsm", "PGD-40 (%)": "pgd"}
    distance = sum((trials[ours] - table[theirs]).abs() for ours, theirs in columns.items())
    best = trials.loc[distance.idxmin()]
    recipe = dqa.network("mnist", "relu", None, scale="laptop").training
    assert recipe.attack is not None
    assert (
        best["epochs"],
        best["clean epochs"],
        best["ramp epochs"],
        best["training steps"],
        best["step size"],
        best["learning rate"],
        best["clean weight"],
    ) == (
        recipe.epochs,
        recipe.clean_epochs,
        recipe.ramp_epochs,
        recipe.attack.steps,
        recipe.attack.step_255 / 255,
        recipe.lr,
        recipe.clean_weight,
    )
