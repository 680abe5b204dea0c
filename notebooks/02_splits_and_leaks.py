# %% [markdown]
# # 2. Splits and leaks: the split decides what a score means
#
# A model is tested on images that it was not trained on. But it may have seen other images of
# the same slide, or of the same case. Then the score measures how well the model recognises a
# known slide, and not how well it would classify a new patient's images.
#
# The first part examines splits of the real BreakHis and needs only its file names. The second
# part trains on the loaded images, by default **synthetic tissue**, to measure how much a
# leaky split raises the scores. No one ran this notebook on Colab or Kaggle yet.

# %%
from breakhis_cls.notebook import setup

DATA = setup("synthetic")  # drawn tissue, or a folder with the images, such as "data/breakhis"

# %% [markdown]
# ## Compare the protocols
#
# A **protocol** is a named way to split. `breakhis audit --split.protocol NAME` checks for each
# test image whether its slide or its case number is also in training (or validation). These
# are the five protocols of the package.

# %%
import pandas as pd

import breakhis_cls as bk
from breakhis_cls.reports import audit_report

protocols = ("case", "slide", "spanhol", "kaiko_eva", "image")
audits = {name: bk.audit_split(name) for name in protocols}
shares = {
    name: pd.Series([fold["leaks"]["case"]["test_share"] for fold in audited.folds])
    for name, audited in audits.items()
}
(100 * pd.DataFrame(shares).T).map("{:.1f}".format).replace("nan", "").add_prefix("fold ")

# %% [markdown]
# Each number is the share of a fold's test images, in per cent, whose **case number** is also
# in training or validation.
#
# - `case` keeps all images of a case number in one part. It is the default here.
# - `slide` keeps all images of a folder in one part. Most papers call this "patient-level". Two
#   folders of one case number can be in different parts.
# - `spanhol` (the five published folds) and `kaiko_eva` (the split of a leaderboard) also split
#   by folder.
# - `image` assigns single images, so every slide is in training and in test.
#
# The audit's summary of each:

# %%
from IPython.display import Markdown

lines = [f"- `{name}`: {audit_report.headline(one)}" for name, one in audits.items()]
Markdown("\n".join(lines))

# %% [markdown]
# ## Which cases leak
#
# Each row is a case number that is on both sides in at least one fold. Each cell has the number
# of its test images in that fold. `audit` writes the same heat map as a web page. For the
# published folds:

# %%
import numpy as np

from breakhis_cls.reports import plots

shared = audit_report.shared_cases(audits["spanhol"])
figure, axes = plots.new_figure(plots.COLUMN_IN, 3.4)
axes[0, 0].imshow(shared, cmap="Oranges", vmin=0, vmax=500, aspect="auto")
axes[0, 0].set_yticks(range(len(shared)), [" ".join(names) for names in shared.index])
axes[0, 0].set(xlabel="Fold (from 0)", xticks=range(5))
for (y, x), n in np.ndenumerate(shared):
    axes[0, 0].text(x, y, n or "", ha="center", va="center", fontsize=7)
plots.add_title(figure, "Published folds: test images whose case is also in training")
figure

# %% [markdown]
# ## The content of a fold
#
# The split by case has few benign cases in each fold: of the 16, a fold tests three or four.
# The package contains one fixed assignment of cases to five folds, so that results compare.

# %%
split = audits["case"].split
tested = split[split["part"] == "test"].groupby(["fold", "label"])
tested.agg(
    images=("file", "size"), slides=("slide", "nunique"), cases=("case", "nunique")
).unstack("label")

# %% [markdown]
# ## Measure the leak penalty
#
# Here one model with one budget is trained under three splits. To keep it fast, the model is a
# logistic regression on features of a ResNet50 with **random weights**. Such features describe
# little more than colour and coarse texture. The question is not how good the model is, but
# how the score changes when only the split changes. The features of each image are computed
# once, and all 15 models share them.

# %%
from breakhis_cls import config
from breakhis_cls.modeling import devices
from breakhis_cls.pipeline.pixel_store import PixelStore

settings = config.Config(
    data=config.Data(root=DATA),
    image=config.Image(height_px=64, width_px=96),
    model=config.Model(weights="random"),
)
dataset = bk.load_dataset(settings)
devices.prepare(deterministic=True)  # before anything imports TensorFlow
store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
print(dataset.name, f"{len(dataset.images)} images", sep=": ")

# %%
from breakhis_cls.modeling import features

hashes = dataset.images["pixel_sha256"].to_numpy()
pooled = features.backbone_features(settings, hashes, store.array, store.rows)
pooled.shape

# %% [markdown]
# For each protocol and fold: fit on train, then predict a probability for every test image. The
# rows have the columns of `predictions.csv`, the table from which all metrics are computed.

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))

# %%
tables = []
for protocol in ("image", "slide", "case"):
    about = {"protocol": protocol, "data": dataset.name, "model": "logistic regression"}
    for fold in range(5):
        chosen = {"split.protocol": protocol, "split.fold": fold, "split.allow_leaks": True}
        split = bk.load_dataset(config.change_settings(settings, chosen)).split
        train, test = (split["part"] == part for part in ("train", "test"))
        model.fit(pooled[train], split["label"][train])
        p = model.predict_proba(pooled[test])[:, 1]
        tables.append(split[test].assign(**about, seed=0, p_benign=1 - p, p_malignant=p))
tables[0][["file", "part", "label", "p_malignant"]].head(3)

# %%
from pathlib import Path

from breakhis_cls.evaluation import experiments, metrics
from breakhis_cls.reports import plots_sweep, sweep_report

source = experiments.Source(Path("splits.csv"), pd.concat(tables, ignore_index=True))
compared = experiments.group_experiments([source])
numbers = {one.name: metrics.compute_metrics(one.table) for one in compared}
scores = sweep_report.sweep_table(compared, numbers)
scores = scores[scores["magnification"] == "all"]
print(*sweep_report.leak_penalties(scores))
labels = {"image_accuracy": "Image accuracy", "roc_auc": "ROC AUC"}
plots_sweep.sweep_figure(scores, labels, f"One model under three splits, {dataset.name}")

# %% [markdown]
# The model and the features are the same; only the split differs. On the synthetic tissue of
# this page, the score is lower the stricter the split is. In the split by image, every slide
# is in training and in test. In the split by slide, different slides of one case can be on both
# sides. In the split by case, no case is. The error bars are long because there are 18 cases. A
# difference within them can be due to chance.
#
# For real tissue and a pretrained network, `breakhis sweep --config leak_penalty` measures the
# same on your images. [docs/protocols.md](../docs/protocols.md) has the result on a sample of
# 36 slides. For any score on BreakHis, check which split it was measured on.
#
# You can audit any split from a CSV file: see [6. Your own model](06_your_own_model.ipynb).
# Next: [3. Training](03_train.ipynb).
