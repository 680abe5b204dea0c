# %% [markdown]
# # 4. Evaluation: how good, how sure, and where it fails
#
# All numbers, figures and reports are made from one table, `predictions.csv`; TensorFlow is
# not needed for that. This notebook takes the run of [3. Training](03_train.ipynb), and trains
# it first if it is not there (about a minute).
#
# The images are **synthetic tissue** unless you say otherwise below, so the numbers say
# nothing about real tissue. No one ran this notebook on Colab or Kaggle yet.

# %%
DATA = "synthetic"  # where the images are: drawn tissue, or a folder such as "data/breakhis"

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

PACKAGE = ".."  # on Colab or Kaggle: an uploaded folder, or git+https://<the repository>
if importlib.util.find_spec("breakhis_cls") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", PACKAGE], check=True)
on_kaggle = Path("/kaggle/input").is_dir()
DATA = os.environ.get("BREAKHIS_DATA", "/kaggle/input" if on_kaggle else DATA)
os.chdir(".." if Path("../pyproject.toml").is_file() else ".")  # data/ and runs/ lie there
# %matplotlib inline

# %%
from breakhis_cls import config

settings = config.Config(
    name="notebook",
    data=config.Data(root=DATA, magnifications=(40, 200)),
    image=config.Image(height_px=64, width_px=96),
    model=config.Model(weights="random", features=("conv4",)),
    head=config.Head(epochs=0),  # random weights have nothing to transfer
    tune=config.Tune(part="all", epochs=5, peak_lr=1e-3, label_smoothing=0.1),
    augment=config.Augment(stain=0.5),
)

# %% [markdown]
# The same command as in notebook 3. A finished run is found and nothing is done.

# %%
file = Path("runs/notebook.yaml")
file.parent.mkdir(exist_ok=True)
file.write_text(config.dump_config(settings))
command = [sys.executable, "-m", "breakhis_cls.train", "--config", str(file)]
said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
run = Path(next(line.split()[1] for line in said.splitlines() if line.startswith("run:")))
print(run, *sorted(path.name for path in run.glob("[!.]*.*")), sep="\n  ")

# %% [markdown]
# ## One row, one image
#
# `p_malignant` is what the network said, raw. Rows of part `validation` chose the threshold
# and the temperature; only rows of part `test` are scored.

# %%
from breakhis_cls.evaluation import experiments

experiment = experiments.group_experiments([experiments.read_source(run)])[0]
test = experiment.test
test[["slide", "case", "magnification", "label", "p_malignant"]].sample(4, random_state=0)

# %% [markdown]
# ## Right and wrong
#
# Malignant from 0.5 on. For a pathologist the two kinds of error are not alike: a malignant
# image called benign (bottom left) is the one to fear.

# %%
from breakhis_cls.reports import plots

plots.confusion_matrix(test)

# %% [markdown]
# The same at each magnification:

# %%
from IPython.display import display

for magnification, rows in test.groupby("magnification"):
    print(f"{magnification}X")
    display(plots.confusion_matrix(rows))

# %% [markdown]
# ## How sure: intervals over cases
#
# The test has many images but few cases, and images of one case are alike. So the interval
# must come from resampling **cases**. Most papers print the interval that takes images for
# independent; here both stand side by side.

# %%
import pandas as pd

from breakhis_cls.evaluation import metrics

numbers = metrics.compute_metrics(experiment.table)["pooled"]
names = ["roc_auc", "image_accuracy", "sensitivity", "specificity", "brier"]
columns = ["value", "low", "high", "image_low", "image_high"]
table = pd.DataFrame({name: numbers[name] for name in names}).T.reindex(columns=columns)
table.astype(float).round(2).fillna("")

# %% [markdown]
# `low` and `high` come from cases. Where they are empty there are too few cases to say
# anything: specificity rests on the benign cases alone, and a fold of this small set tests two
# of them. `image_low` and `image_high` are there all the same, and would mislead. One fold is
# the least one can do; `breakhis evaluate` pools several, as [6. Your own
# model](06_your_own_model.ipynb) does, and [docs/statistics.md](../docs/statistics.md) says
# how far the intervals can be trusted.
#
# Several numbers are called accuracy. They differ because slides and cases differ in size:

# %%
kinds = {
    "image_accuracy": "share of images that are right",
    "recognition_rate": "mean over slides of the share of a slide's images that are right",
    "slide_vote_accuracy": "share of slides whose mean probability is on the right side",
    "case_vote_accuracy": "the same for cases",
}
values = {text: round(numbers[name]["value"], 3) for name, text in kinds.items()}
pd.DataFrame({"value": values})

# %% [markdown]
# ## Any threshold: ROC
#
# The area is the chance that a malignant image gets a higher score than a benign one, whatever
# the threshold.

# %%
plots.roc(test, f"ROC AUC {numbers['roc_auc']['value']:.2f}")

# %% [markdown]
# ## Do its probabilities come true?
#
# Of the images that were called malignant with 80 %, some 80 % should be malignant. The band
# is the 95 % interval over cases. A temperature, chosen on validation, can make a network that
# is too sure more modest; it changes no ranking. From three validation cases, as here, it may
# also make things worse.

# %%
from breakhis_cls.reports import analysis, plots_calibration

found = analysis.analyse_experiment(experiment)
all_images = {"all": found.reliability["all"]}
plots_calibration.reliability(
    all_images, f"Gap of {numbers['ece']['value']:.2f} on average (ECE)"
)

# %%
if found.calibration:
    temperature = found.calibration["temperatures"][0]["temperature"]
    after = found.calibration["with_temperature"]
    print(f"temperature {temperature:.2f}")
    for name in ("ece", "brier", "log_loss"):
        print(f"{name}: {numbers[name]['value']:.3f} raw, {after[name]['value']:.3f} with it")

# %% [markdown]
# ## Where it fails
#
# By subtype and magnification, case by case, and picture by picture. Influence is what a case
# does to the ROC AUC: negative where it pulls it down.

# %%
plots_calibration.errors(found.errors)

# %%
shown = ["case", "label", "subtypes", "n_images", "image_accuracy", "vote", "influence_roc_auc"]
found.cases[shown].round(2).head(8)

# %% [markdown]
# The images of which the network was surest, and wrong:

# %%
from breakhis_cls.data import index
from breakhis_cls.reports import plots_images

root = index.find_root(settings.data)
plots_images.confident_errors(test, root)

# %% [markdown]
# ## Leave the hard ones to a human
#
# If the cases of which the network is least sure go to a pathologist, how do the others fare?

# %%
plots_calibration.risk_coverage(found.referral, "case")

# %% [markdown]
# All this, and more, is in the run's report, one page that opens from disk and needs no
# network:

# %%
report = settings.run.reports / run.name / "index.html"
print(f"{report}: {report.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# `breakhis evaluate RUN` makes it anew, several folds of one experiment are pooled, several
# experiments are compared on the same images. Next: [5. Saliency](05_saliency.ipynb).
