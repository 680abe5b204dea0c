# %% [markdown]
# # 5. Saliency: where the network looked, and whether to believe it
#
# Grad-CAM (Selvaraju et al. 2017) colours the places of an image that spoke for an answer.
# Such pictures persuade, so this notebook also asks whether they depend on what the network
# learned, and, since drawn tissue has a known truth, whether heat lies where it should. It
# takes the run of [3. Training](03_train.ipynb), and trains it first if it is not there (about
# a minute).
#
# The images are **synthetic tissue** unless you say otherwise below. No one ran this notebook
# on Colab or Kaggle yet.

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

# %%
file = Path("runs/notebook.yaml")
file.parent.mkdir(exist_ok=True)
file.write_text(config.dump_config(settings))
command = [sys.executable, "-m", "breakhis_cls.train", "--config", str(file)]
said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
run = Path(next(line.split()[1] for line in said.splitlines() if line.startswith("run:")))
print(run)

# %% [markdown]
# The model, the test images as it was fed them, and what it answered:

# %%
import pandas as pd

from breakhis_cls.data import dataset
from breakhis_cls.modeling import devices
from breakhis_cls.pipeline.pixel_store import PixelStore

devices.prepare(deterministic=True)  # before anything imports TensorFlow
from breakhis_cls.evaluation import experiments
from breakhis_cls.modeling import network
from breakhis_cls.reports import saliency_report

test = saliency_report.add_predictions(
    experiments.group_experiments([experiments.read_source(run)])[0].test
)
test.groupby(["true", "named"]).agg(images=("file", "size"), mean_p=("p", "mean")).round(2)

# %%
at_hand = dataset.load_dataset(settings)
store = PixelStore.open(at_hand.images, at_hand.root, settings.image, settings.data.cache)
rows = pd.Index(at_hand.images["file"]).get_indexer(test["file"])
pixels, named = store.array[store.rows[rows]], test["class_index"].to_numpy()
model = network.load_model(run / "model.keras")
pixels.shape

# %% [markdown]
# ## Heat
#
# The last block of the network sees an image as a coarse grid. Grad-CAM asks of each cell how
# much it added to the log-odds of the answer. Cells that spoke against it are cut, the rest is
# enlarged to the size of the image.

# %%
from breakhis_cls.data.png import decode
from breakhis_cls.modeling import gradcam
from breakhis_cls.reports import plots_saliency

evidence = gradcam.class_evidence(model, pixels, named)
seen = []
for (_, row), of_image in zip(test.iterrows(), evidence, strict=True):
    rgb = decode(at_hand.root / row["file"])
    heat = gradcam.upsample_heat(of_image, rgb.shape[:2], settings.image)
    seen.append(plots_saliency.SaliencyImage(rgb, heat, saliency_report.caption(row)))
surest = test["p"].argmax()
plots_saliency.overlay(seen[surest], "The surest answer")

# %% [markdown]
# ## Right and wrong answers
#
# The surest answers of each kind. Malignant is positive, so a false negative is a missed
# cancer. Heat compares places of one image, never two images: the hottest place is always
# yellow.

# %%
kinds = saliency_report.kinds_of_answers(test, 4)
shown = {kind: [seen[at] for at in rows["at"]] for kind, rows in kinds.items()}
plots_saliency.sheet(shown, "What spoke for the answer, right or wrong")

# %% [markdown]
# ## Sanity check: does heat depend on what was learned?
#
# Adebayo et al. (2018) found methods whose maps look the same when the network's weights are
# replaced by noise: edge detectors, not explanations. So: randomise the head, then more and
# more layers from the top, and correlate each new map with the trained one. A method that can
# be believed forgets.

# %%
import itertools

some = saliency_report.spread_over_cases(test, 12)
table = []
for share, draw in itertools.product((0.0, 0.25, 1.0), range(2)):
    noise = gradcam.randomize_weights(model, share, seed=draw)
    forgotten = gradcam.class_evidence(noise, pixels[some], named[some])
    pairs = zip(evidence[some], forgotten, strict=True)
    table += [(share, at, gradcam.rank_correlation(*pair)) for at, pair in enumerate(pairs)]
table = pd.DataFrame(table, columns=["share", "image", "rho"])
table = table.groupby(["share", "image"], as_index=False).mean()
plots_saliency.randomization_curve(
    table, "Likeness to the trained network's heat: 12 images, mean of 2 draws"
)

# %% [markdown]
# Near 0: the map was made of what was learned. Near 1: it would look so anyway. A draw of
# noise may by luck point along what was learned, or against it, so each dot is a mean of two.
#
# ## The truth, where it is known
#
# Whoever draws tissue knows which nuclei make the label: the size and shape of the epithelial
# ones follow the subtype. So for each malignant test image: how often is a pixel of such a
# nucleus hotter than another pixel? 0.5 is luck.

# %%
from breakhis_cls.synthetic import tree

malignant = test[(test["label"] == "malignant") & at_hand.is_synthetic]
evidences = {"trained": gradcam.class_evidence(model, pixels, named * 0 + 1)}
evidences["randomised"] = gradcam.class_evidence(noise, pixels, named * 0 + 1)
ranked = []
for at, file in malignant["file"].items():
    mask = tree.epithelial_mask(Path(file).name)
    heats = {
        kind: gradcam.upsample_heat(some[at], mask.shape) for kind, some in evidences.items()
    }
    ranked.append({kind: gradcam.localization_auc(heat, mask) for kind, heat in heats.items()})
truth = pd.DataFrame(ranked, columns=list(evidences), dtype=float)
truth.describe().loc[["count", "mean", "min", "max"]].round(2)

# %% [markdown]
# Images of two cases only show how to ask. `scripts/saliency_truth.py` asks it of new cases,
# with an interval.
#
# ## What the network has in mind: a map of the test set
#
# The pooled features of each image, on their first two principal components. If images of one
# case lie together, or of one magnification, the network sees more than the label: that is a
# batch effect.

# %%
from breakhis_cls.reports import embedding

pooled = model.get_layer("backbone").predict(pixels, verbose=0)
features = embedding.standardised(pooled)
shares = {name: embedding.between(features, test[name]) for name in embedding.GROUPS}
embedding.figure(embedding.components(features)[0], test, shares)

# %% [markdown]
# In a terminal `breakhis explain RUN` writes all this as a page, with sheets by subtype. Next:
# [6. Your own model](06_your_own_model.ipynb).
