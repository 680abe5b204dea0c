# %% [markdown]
# # 2. Splits and leaks: what a score means depends on who was tested
#
# A model is tested on images that it has not seen. But has it seen other images of the same
# slide, or of the same case? If so, the score says how well it recognises a slide again, and
# not how well it would do with the next patient.
#
# The first part looks at splits of the real BreakHis and needs only its file names. The second
# part trains on the images at hand, by default **synthetic tissue**, to measure what a leaky
# split is worth. No one ran this notebook on Colab or Kaggle yet.

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
# ## Protocols side by side
#
# A **protocol** is a named way to split. `breakhis audit --split.protocol NAME` asks of every
# test image: was its slide seen in training (or validation)? Was its case number? Here are the
# five that ship with the package.

# %%
import pandas as pd

from breakhis_cls import audit, config
from breakhis_cls.data import leakage

protocols = ("case", "slide", "spanhol", "kaiko_eva", "image")
audits = {
    name: leakage.audit_split(config.Data(root=""), config.Split(protocol=name))
    for name in protocols
}
shares = {
    name: pd.Series([fold["leaks"]["case"]["test_share"] for fold in audited.folds])
    for name, audited in audits.items()
}
(100 * pd.DataFrame(shares).T).round(1).add_prefix("fold ").fillna("")

# %% [markdown]
# Each number is the share of a fold's test images, in per cent, whose **case number** the
# model has seen.
#
# - `case` keeps case numbers together. It is the default here.
# - `slide` keeps folders together, which most papers call "patient-level". Sibling folders
#   still end up apart.
# - `spanhol` (the five published folds) and `kaiko_eva` (the split of a leaderboard) do the
#   same.
# - `image` deals single images: every slide is on both sides.
#
# In a sentence each:

# %%
from IPython.display import Markdown

said = [f"- `{name}`: {audit.headline(audited)}" for name, audited in audits.items()]
Markdown("\n".join(said))

# %% [markdown]
# ## Which cases leak: the audit's heat map
#
# Each row is a case number that is on both sides in some fold, each number its touched test
# images. `audit` writes the same map as a web page. The published folds:

# %%
from breakhis_cls.reports import plots

shared = audit.shared_cases(audits["spanhol"])
share = [[cell["share"] for cell in row["cells"]] for row in shared]
figure, axes = plots.new_figure(plots.COLUMN_IN, 3.4)
axes[0, 0].imshow(share, cmap="Oranges", vmin=0, vmax=0.2, aspect="auto")
axes[0, 0].set_yticks(range(len(shared)), [f"{row['case']} {row['label']}" for row in shared])
axes[0, 0].set(xlabel="fold (from 0)", xticks=range(5))
for y, row in enumerate(shared):
    for x, cell in enumerate(row["cells"]):
        axes[0, 0].text(x, y, cell["n"] or "", ha="center", va="center", fontsize=7)
plots.add_title(figure, "Published folds: test images of cases that were seen in training")
figure

# %% [markdown]
# ## What a fold holds
#
# The honest protocol has a price: with 16 benign cases, a fold tests three or four of them.
# The package ships one frozen assignment of cases to five folds, so that results compare.

# %%
split = audits["case"].split
tested = split[split["part"] == "test"].groupby(["fold", "label"])
tested.agg(
    images=("file", "size"), slides=("slide", "nunique"), cases=("case", "nunique")
).unstack("label")

# %% [markdown]
# ## The leak penalty, live
#
# Now one model with one budget under three splits. To be quick, the model is a logistic
# regression on features of a ResNet50 with **random weights**, which sees little more than
# colour and coarse texture; the point is not how good it is but what changes when only the
# split does. Each image is looked at once, and all 15 trainings share the features.

# %%
from breakhis_cls.data import dataset
from breakhis_cls.modeling import devices
from breakhis_cls.pipeline.pixel_store import PixelStore

settings = config.Config(
    data=config.Data(root=DATA),
    image=config.Image(height_px=64, width_px=96),
    model=config.Model(weights="random", features=("conv4",)),
    head=config.Head(epochs=0),
    tune=config.Tune(part="conv4"),
)
at_hand = dataset.load_dataset(settings)
devices.prepare(deterministic=True)  # before anything imports TensorFlow
store = PixelStore.open(at_hand.images, at_hand.root, settings.image, settings.data.cache)
print(at_hand.name, f"{len(at_hand.images)} images", sep=": ")

# %%
from breakhis_cls.modeling import features

hashes = at_hand.images["pixel_sha256"].to_numpy()
pooled = features.backbone_features(settings, hashes, store.array, store.rows, views=(0,))[:, 0]
pooled.shape

# %% [markdown]
# For each protocol and fold: fit on train, write down a probability for every test image. The
# rows have the columns of `predictions.csv`, the table from which all metrics are made.

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from breakhis_cls.data import splits

model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))

# %%
tables = []
for protocol in ("image", "slide", "case"):
    about = {"protocol": protocol, "data": at_hand.name, "model": "logistic regression"}
    for fold in range(5):
        chosen = config.Split(protocol=protocol, fold=fold, allow_leaks=True)
        split = splits.assign_split(at_hand.images, chosen)
        train, test = (split["part"] == part for part in ("train", "test"))
        model.fit(pooled[train], split["label"][train])
        p = model.predict_proba(pooled[test])[:, 1]
        tables.append(split[test].assign(**about, seed=0, p_benign=1 - p, p_malignant=p))
tables[0][["file", "part", "label", "p_malignant"]].head(3)

# %%
from breakhis_cls.reports import penalty

penalties = penalty.table(pd.concat(tables, ignore_index=True))
print(penalty.sentence(penalties, at_hand.name))
penalty.figure(penalties, at_hand.name)

# %% [markdown]
# The same model with the same features: only who was tested has changed. On the synthetic
# tissue that this page was made from, each step towards honesty costs points: by image the
# model meets every slide again, by slide it meets sibling slides of a case, by case it meets
# none. The bars are long because there are 18 cases; a difference within them can be chance.
#
# On real tissue, with a pretrained network, `breakhis sweep --config configs/leak_penalty.yaml`
# measures the same on your images, and [docs/protocols.md](../docs/protocols.md) has what it
# gave on a sample of 36 slides. So before you believe a score on BreakHis, ask for the split.
#
# Anyone's split can be audited, from a CSV: see [6. Your own model](06_your_own_model.ipynb).
# Next: [3. Training](03_train.ipynb).
