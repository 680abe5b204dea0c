# %% [markdown]
# # 6. Your own model, split or backbone
#
# The package can evaluate models that it did not train. The interface is one table,
# `predictions.csv`: a row for each test image, with a probability for each class. You can write
# this table from PyTorch, scikit-learn or R, and get the same metrics, intervals and report.
#
# The images are **synthetic tissue** unless you change `DATA` below. No one ran this notebook
# on Colab or Kaggle yet.

# %%
from breakhis_cls.notebook import setup

DATA = setup("synthetic")  # drawn tissue, or a folder with the images, such as "data/breakhis"

# %% [markdown]
# ## Score another framework's predictions
#
# The other framework is scikit-learn. The model is a random forest on **colour histograms**:
# how often each intensity of red, green and blue occurs in an image. It uses no shapes. It is a
# useful baseline: a network that is not better than this has probably learned only colours.

# %%
import numpy as np

import breakhis_cls as bk
from breakhis_cls import config
from breakhis_cls.pipeline.pixel_store import PixelStore

settings = config.Config(
    data=config.Data(root=DATA), image=config.Image(height_px=64, width_px=96)
)
dataset = bk.load_dataset(settings)
store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
shades = store.array[store.rows] // 32  # eight intensities of each colour
histograms = np.stack([(shades == shade).mean(axis=(1, 2)) for shade in range(8)], axis=1)
histograms = histograms.reshape(len(shades), -1)
print(f"{dataset.name}: {len(shades)} images, {histograms.shape[1]} features each")

# %% [markdown]
# Train it on the five folds of the protocol `case`. `load_dataset` says the part of each image
# in each fold, with most columns of `predictions.csv`. The cell adds the protocol, data, model,
# seed and probabilities.

# %%
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

model = RandomForestClassifier(300, class_weight="balanced", random_state=0)

# %%
about = {"protocol": "case", "data": dataset.name, "model": "colour forest", "seed": 0}
tables = []
for fold in range(5):
    split = bk.load_dataset(config.change_settings(settings, {"split.fold": fold})).split
    train, scored = split["part"] == "train", split["part"] != "train"
    model.fit(histograms[train], split["label"][train])  # classes in order: benign, malignant
    p = model.predict_proba(histograms[scored])
    tables.append(split[scored].assign(**about, p_benign=p[:, 0], p_malignant=p[:, 1]))
predicted = pd.concat(tables, ignore_index=True)
predicted[["file", "fold", "part", "label", "p_benign", "p_malignant"]].head(3)

# %% [markdown]
# Rows of part `validation` are optional: thresholds and the temperature of the calibration are
# chosen on them. Write the table and evaluate it. In a terminal, the command is `breakhis
# evaluate runs/colours.csv`.

# %%
from pathlib import Path

table = Path("runs/colours.csv")
table.parent.mkdir(exist_ok=True)
predicted.to_csv(table, index=False)
report = bk.evaluate_runs([table], out="reports/colours", images_root=dataset.root)
print(*sorted(path.name for path in report.iterdir() if path.suffix not in (".png", ".svg")))

# %%
import json

pooled = json.loads((report / "metrics.json").read_text())["pooled"]
shown = ("roc_auc", "image_accuracy", "sensitivity", "specificity", "case_vote_accuracy")
columns = ["value", "low", "high"]
pd.DataFrame({name: pooled[name] for name in shown}).T[columns].astype(float).round(3)

# %% [markdown]
# `low` and `high` are the limits of the 95 % interval over cases, with all folds pooled. The
# page `reports/colours/index.html` shows all results. This is one of its figures, the confusion
# matrix of the five folds:

# %%
from breakhis_cls.evaluation import predictions
from breakhis_cls.reports import plots

test = predictions.select_part(predictions.read_predictions(table), "test")
plots.confusion_matrix(test)

# %% [markdown]
# An invalid table is refused with a message that says what is invalid and where. A common
# mistake is to write logits instead of probabilities:

# %%
from breakhis_cls.errors import DataError

try:
    predictions.validate_predictions(test.head(1).assign(p_benign=2.3, p_malignant=-1.1))
except DataError as error:
    print(error)

# %% [markdown]
# ## Another split
#
# A split is a CSV with a `file` (or `slide`) and a `part`, and optionally a `fold`. Suppose a
# colleague sends this one, made by shuffling images, as many tutorials do:

# %%
rng = np.random.default_rng(0)
part = np.where(rng.random(len(dataset.images)) < 0.2, "test", "train")
by_image = Path("runs/colleague.csv")
dataset.images[["file"]].assign(part=part).to_csv(by_image, index=False)
print("\n".join(by_image.read_text().splitlines()[:3]))

# %% [markdown]
# In a terminal: `breakhis audit --split.protocol runs/colleague.csv --data.root synthetic`.
# With images it also looks for equal pixels and near duplicates.

# %%
from breakhis_cls.reports import audit_report

audited = bk.audit_split(by_image, config.Data(root=DATA))
print(audit_report.headline(audited))
audited.leaks.groupby("kind").agg(test_images=("file", "nunique"), shared=("key", "nunique"))

# %% [markdown]
# To avoid the leak, assign whole cases instead of images. (Or use the protocol `case`.)

# %%
cases = dataset.images["case"].unique()
test_cases = rng.choice(cases, size=len(cases) // 5, replace=False)
part = np.where(dataset.images["case"].isin(test_cases), "test", "train")
by_case = Path("runs/by_case.csv")
dataset.images[["file"]].assign(part=part).to_csv(by_case, index=False)
audited = bk.audit_split(by_case, config.Data(root=DATA))
print(audit_report.headline(audited))

# %% [markdown]
# To train on such a split: `breakhis train --config configs/binary_200x.yaml --split.protocol
# runs/by_case.csv`.
#
# ## Another backbone
#
# `model.backbone` is ResNet50, DenseNet121, EfficientNetV2B0 or ConvNeXtTiny, such as
# `--model.backbone EfficientNetV2B0` on the command line. The preprocessing of each backbone is
# part of the model, so its input is the unchanged image. With `weights="imagenet"` the weights
# are downloaded once. Here they are random, so nothing is downloaded.

# %%
from breakhis_cls.modeling import devices

devices.prepare(deterministic=True)  # before anything imports TensorFlow
from breakhis_cls.modeling import network

rows = {}
for name in ("ResNet50", "EfficientNetV2B0"):
    backbone = network.build_backbone(config.Model(backbone=name, weights="random"))
    rows[name] = {"weights": backbone.count_params(), "features": backbone.output_shape[-1]}
pd.DataFrame(rows).T

# %% [markdown]
# Any other model can be trained elsewhere: write its `predictions.csv`, and compare it with
# `breakhis evaluate RUN runs/colours.csv`, paired by case. The README describes how to add a
# backbone, a protocol or a metric to the package.
