# %% [markdown]
# # 6. Your own: another model, another split, another backbone
#
# The package judges models that it did not train. Its interface is one table,
# `predictions.csv`: a row for each tested image, with a probability for each class. Whoever
# can write that table, from PyTorch, scikit-learn or R, gets the same metrics, intervals and
# report.
#
# The images here are **synthetic tissue** unless you say otherwise below. No one ran this
# notebook on Colab or Kaggle yet.

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

# %% [markdown]
# ## Score another framework's predictions
#
# The other framework is scikit-learn, its model a random forest on **colour histograms**: how
# often each shade of red, green and blue occurs in an image. It knows nothing of shapes. It
# makes a good opponent: a network that does not beat it has learned colours.

# %%
import numpy as np

from breakhis_cls import config
from breakhis_cls.data import dataset
from breakhis_cls.pipeline.pixel_store import PixelStore

settings = config.Config(
    data=config.Data(root=DATA), image=config.Image(height_px=64, width_px=96)
)
at_hand = dataset.load_dataset(settings)
store = PixelStore.open(at_hand.images, at_hand.root, settings.image, settings.data.cache)
shades = store.array[store.rows] // 32  # eight shades of each colour
histograms = np.stack([(shades == shade).mean(axis=(1, 2)) for shade in range(8)], axis=1)
histograms = histograms.reshape(len(shades), -1)
print(f"{at_hand.name}: {len(shades)} images, {histograms.shape[1]} numbers each")

# %% [markdown]
# Train it on the five folds of the protocol `case`. `splits.assign` says who is in which part,
# and its columns are already most of `predictions.csv`. What is added: which protocol, data,
# model and seed, and the probabilities.

# %%
import pandas as pd
from sklearn.ensemble import RandomForestClassifier

from breakhis_cls.data import splits

model = RandomForestClassifier(300, class_weight="balanced", random_state=0)

# %%
about = {"protocol": "case", "data": at_hand.name, "model": "forest on colours", "seed": 0}
tables = []
for fold in range(5):
    split = splits.assign_split(at_hand.images, config.Split(protocol="case", fold=fold))
    train, scored = split["part"] == "train", split["part"] != "train"
    model.fit(histograms[train], split["label"][train])  # classes in order: benign, malignant
    p = model.predict_proba(histograms[scored])
    tables.append(split[scored].assign(**about, p_benign=p[:, 0], p_malignant=p[:, 1]))
predicted = pd.concat(tables, ignore_index=True)
predicted[["file", "fold", "part", "label", "p_benign", "p_malignant"]].head(3)

# %% [markdown]
# Rows of part `validation` are not needed, but welcome: thresholds and the temperature of the
# calibration are chosen on them. Write the table and score it. In a terminal this is `breakhis
# evaluate runs/colours.csv`.

# %%
from breakhis_cls import evaluate

table = Path("runs/colours.csv")
table.parent.mkdir(exist_ok=True)
predicted.to_csv(table, index=False)
report = evaluate.evaluate_runs([table], out=Path("reports/colours"), images_root=at_hand.root)
print(*sorted(path.name for path in report.iterdir() if path.suffix not in (".png", ".svg")))

# %%
import json

pooled = json.loads((report / "metrics.json").read_text())["pooled"]
shown = ("roc_auc", "image_accuracy", "sensitivity", "specificity", "case_vote_accuracy")
columns = ["value", "low", "high", "image_low", "image_high"]
pd.DataFrame({name: pooled[name] for name in shown}).T[["value", "low", "high"]].astype(
    float
).round(3)

# %% [markdown]
# `low` and `high` bound the 95 % interval over cases, all folds pooled; `image_low` and
# `image_high` the one that takes images for independent, which is too narrow. The page
# `reports/colours/index.html` shows all of it; here is one of its figures, images named right
# and wrong over the five folds:

# %%
from breakhis_cls.evaluation import predictions
from breakhis_cls.reports import plots

tested = predictions.select_part(predictions.read_predictions(table), "test")
plots.confusion_matrix(tested)

# %% [markdown]
# A table with a fault is refused with what is wrong and where. Logits instead of probabilities
# are a common one:

# %%
from breakhis_cls.errors import DataError

try:
    predictions.validate_predictions(tested.head(1).assign(p_benign=2.3, p_malignant=-1.1))
except DataError as error:
    print(error)

# %% [markdown]
# ## Another split
#
# A split is a CSV with a `file` (or `slide`) and a `part`, and perhaps a `fold`. Suppose a
# colleague sends this one, made by shuffling images, as many tutorials do:

# %%
rng = np.random.default_rng(0)
part = np.where(rng.random(len(at_hand.images)) < 0.2, "test", "train")
theirs = Path("runs/colleague.csv")
at_hand.images[["file"]].assign(part=part).to_csv(theirs, index=False)
print("\n".join(theirs.read_text().splitlines()[:3]))

# %% [markdown]
# In a terminal: `breakhis audit --split.protocol runs/colleague.csv --data.root synthetic`.
# With images it also looks for equal pixels and near duplicates.

# %%
from breakhis_cls import audit
from breakhis_cls.data import leakage

found = leakage.audit_split(config.Data(root=DATA), config.Split(protocol=str(theirs)))
print(audit.headline(found))
found.leaks.groupby("kind").agg(test_images=("file", "nunique"), shared=("key", "nunique"))

# %% [markdown]
# The remedy: deal out cases instead of images. (Or use the protocol `case`.)

# %%
cases = at_hand.images["case"].unique()
tested = rng.choice(cases, size=len(cases) // 5, replace=False)
part = np.where(at_hand.images["case"].isin(tested), "test", "train")
ours = Path("runs/by_case.csv")
at_hand.images[["file"]].assign(part=part).to_csv(ours, index=False)
found = leakage.audit_split(config.Data(root=DATA), config.Split(protocol=str(ours)))
print(audit.headline(found))

# %% [markdown]
# To train on such a split: `breakhis train --config configs/binary_200x.yaml --split.protocol
# runs/by_case.csv`.
#
# ## Another backbone
#
# `model.backbone` names it, ResNet50, DenseNet121, EfficientNetV2B0 or ConvNeXtTiny:
# `--model.backbone EfficientNetV2B0` on the command line. Each brings its own preprocessing,
# which is inside the model, so images go in as they are. With `weights="imagenet"` the weights
# are fetched once; here they are random, so that nothing is.

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
# A model that no name covers needs no support: train it where you like, write
# `predictions.csv`, and compare it here with `breakhis evaluate RUN runs/colours.csv`, paired
# by case. The README says how to add a backbone, a protocol or a metric to the package.
