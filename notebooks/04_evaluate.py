# %% [markdown]
# # 4. Evaluation: performance, uncertainty and errors
#
# All numbers, figures and reports are made from one table, `predictions.csv`, without
# TensorFlow. This notebook uses the run of [3. Training](03_train.ipynb), and trains it first
# if it does not exist (about a minute).
#
# The images are **synthetic tissue** unless you change `DATA` below, so the numbers say nothing
# about real tissue. No one ran this notebook on Colab or Kaggle yet.

# %%
from breakhis_cls.notebook import setup

DATA = setup("synthetic")  # drawn tissue, or a folder with the images, such as "data/breakhis"

# %% [markdown]
# ## The run
#
# If it is finished, it is not trained again. It shows its main numbers:

# %%
import breakhis_cls as bk

run = bk.train_run(bk.load_config("notebook", **{"data.root": DATA}))
run

# %% [markdown]
# What it left in its folder:

# %%
print(*sorted(path.name for path in run.folder.glob("[!.]*.*")), sep="\n")

# %% [markdown]
# ## One row is one image
#
# `p_malignant` is the predicted probability, not calibrated. The threshold and the temperature
# are chosen on rows of part `validation`. Only rows of part `test` are scored.

# %%
experiment = run.experiment
test = experiment.test
test[["slide", "case", "magnification", "label", "p_malignant"]].sample(4, random_state=0)

# %% [markdown]
# ## Confusion matrix
#
# An image is classified as malignant if its probability is at least 0.5. For a pathologist the
# two kinds of error are not equal: a malignant image classified as benign (bottom left) is the
# more serious one.

# %%
run.confusion_matrix()

# %% [markdown]
# The same at each magnification:

# %%
from IPython.display import display

from breakhis_cls.reports import plots

for magnification, rows in test.groupby("magnification"):
    print(f"{magnification}X")
    display(plots.confusion_matrix(rows))

# %% [markdown]
# ## Confidence intervals over cases
#
# The test part has many images but few cases, and images of one case are alike. Therefore the
# confidence interval is computed by resampling **cases**. Most papers print the interval that
# treats images as independent. The table shows both.

# %%
import pandas as pd

from breakhis_cls.evaluation import metrics

numbers = metrics.compute_metrics(experiment.table)["pooled"]
names = ["roc_auc", "image_accuracy", "sensitivity", "specificity", "brier"]
columns = ["value", "low", "high", "image_low", "image_high"]
table = pd.DataFrame({name: numbers[name] for name in names}).T.reindex(columns=columns)
table.astype(float).map("{:.2f}".format).replace("nan", "")

# %% [markdown]
# `low` and `high` are the interval over cases. Where they are empty, there are too few cases
# for an interval: specificity depends on the benign cases alone, and a fold of this small data
# set tests two of them. `image_low` and `image_high` exist even then, and are misleading. One
# fold is the minimum. `breakhis evaluate` pools several folds, as in [6. Your own
# model](06_your_own_model.ipynb). [docs/statistics.md](../docs/statistics.md) describes how
# reliable the intervals are.
#
# Several metrics are called accuracy. They differ because slides and cases differ in their
# number of images:

# %%
kinds = {
    "image_accuracy": "share of correctly classified images",
    "recognition_rate": "the same for the images of each slide, mean over slides",
    "slide_vote_accuracy": "share of slides correctly classified by their mean probability",
    "case_vote_accuracy": "share of cases correctly classified by their mean probability",
}
values = {text: round(numbers[name]["value"], 3) for name, text in kinds.items()}
pd.DataFrame({"value": values})

# %% [markdown]
# ## ROC curve
#
# The area under the curve is the probability that a malignant image has a higher score than a
# benign one. It does not depend on a threshold.

# %%
plots.roc(test, f"ROC AUC {numbers['roc_auc']['value']:.2f}")

# %% [markdown]
# ## Calibration
#
# Of the images with a predicted probability of 80 %, about 80 % should be malignant: the curve
# should follow the diagonal. The band is the 95 % interval over cases. Temperature scaling,
# fitted on validation, can correct a network that is overconfident; it does not change the
# ranking. It is refused where validation has fewer than three cases of a class, or separates
# the classes perfectly.

# %%
from breakhis_cls.reports import text
from breakhis_cls.reports.report import analyze_experiment

analysis = analyze_experiment(experiment, run.metrics)
print(text.calibration_verdict(analysis, numbers["ece"]["value"]))
plots.calibration(analysis["curve"], test, "Calibration")

# %%
calibrated = analysis["calibration"]
for entry in calibrated["refused"]:
    print(f"no temperature: {entry['reason']}")
for entry in calibrated["temperatures"]:
    print(f"temperature {entry['temperature']:.2f}")
    for name, after in calibrated["with_temperature"].items():
        print(f"{name}: {numbers[name]['value']:.3f} raw, {after['value']:.3f} scaled")

# %% [markdown]
# ## Errors
#
# The errors by case and by image. The influence of a case is the change of the ROC AUC that is
# due to this case: it is negative if the case lowers the ROC AUC.

# %%
shown = ["case", "label", "subtypes", "n_images", "image_accuracy", "vote", "influence_roc_auc"]
analysis["cases"][shown].round(2).head(8)

# %% [markdown]
# The most confident errors are misclassified images with the highest predicted probability:

# %%
from breakhis_cls.data import index
from breakhis_cls.reports import plots_images

root = index.find_root(run.settings.data)
plots_images.confident_errors(test, root)

# %% [markdown]
# ## What decisions are worth
#
# Someone who acts from a probability of 20 % on accepts four false alarms for each cancer that
# is found. Net benefit counts true positives and subtracts false positives by that weight. A
# model is of use at a threshold where its curve lies above both other lines.

# %%
plots.decision_curve(analysis["net_benefit"], analysis["prevalence"])

# %% [markdown]
# The run's report contains all this and more. It is one HTML page that needs no internet
# connection:

# %%
report = run.report()
print(f"{report}: {report.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# `breakhis evaluate RUN` makes it again. Given several folds of one experiment, it pools them.
# Given several experiments, it compares them on the same images. Next: [5.
# Saliency](05_saliency.ipynb).
