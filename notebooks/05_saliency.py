# %% [markdown]
# # 5. Saliency: heat maps and how to check them
#
# **In short:** the heat maps of this small network pass the sanity check below: with random
# weights it has other heat maps. But they hardly mark the nuclei that decide the label, because
# the network has seen only a hundred small images, and its grid of 4 x 6 cells is coarse. So
# this page shows the method; it is no evidence about tissue.
#
# Grad-CAM (Selvaraju et al. 2017) marks the places of an image that support the predicted
# class. Heat maps can look convincing and still be wrong. This notebook therefore also checks
# whether they depend on the trained weights and, because drawn tissue has a known ground truth,
# whether they mark the nuclei that determine the label. It uses the run of [3.
# Training](03_train.ipynb), and trains it first if it does not exist (about a minute).
#
# The images are **synthetic tissue** unless you change `DATA` below. No one ran this notebook
# on Colab or Kaggle yet.

# %%
from breakhis_cls.notebook import setup

DATA = setup("synthetic")  # drawn tissue, or a folder with the images, such as "data/breakhis"

# %%
import breakhis_cls as bk

run = bk.train_run(bk.load_config("notebook", **{"data.root": DATA}), report=False)
print(run.folder)

# %% [markdown]
# The test images, and the predicted labels and probabilities of the model:

# %%
import pandas as pd

from breakhis_cls.modeling import devices
from breakhis_cls.pipeline.pixel_store import PixelStore

devices.prepare(deterministic=True)  # before anything imports TensorFlow
from breakhis_cls.evaluation import error_analysis
from breakhis_cls.modeling import network
from breakhis_cls.reports import plots_images, saliency_report

test = error_analysis.add_predictions(run.experiment.test)
groups = test.groupby(["true_label", "predicted_label"])
groups.agg(images=("file", "size"), mean_p=("p", "mean")).round(2)

# %%
settings = run.settings
dataset = bk.load_dataset(settings)
store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
rows = pd.Index(dataset.images["file"]).get_indexer(test["file"])
pixels, predicted = store.array[store.rows[rows]], test["class_index"].to_numpy()
model = network.load_run_model(run.folder)
pixels.shape

# %% [markdown]
# ## Grad-CAM
#
# The output of the network's last block is a coarse grid over the image. Grad-CAM computes how
# much each cell adds to the log-odds of the predicted class. Negative values are set to zero,
# and the grid is enlarged to the size of the image.

# %%
from breakhis_cls.data.png import decode
from breakhis_cls.modeling import gradcam

evidence = gradcam.class_evidence(model, pixels, predicted)
heat_maps = []
for (_, row), cells in zip(test.iterrows(), evidence, strict=True):
    rgb = decode(dataset.root / row["file"])
    heat = gradcam.upsample_heat(cells, rgb.shape[:2], settings.image)
    heat_maps.append(saliency_report.SaliencyImage(rgb, heat, plots_images.caption(row)))
most_confident = test["p"].argmax()
saliency_report.sheet({"prediction": [heat_maps[most_confident]]}, "The most confident one")

# %% [markdown]
# ## Correct and incorrect predictions
#
# The most confident predictions of each kind. Malignant is the positive class, so a false
# negative is a missed cancer. The heat map compares places within one image, never two images:
# the hottest place is always yellow.

# %%
kinds = saliency_report.select_examples(test, 4)
shown = {kind: [heat_maps[at] for at in rows["at"]] for kind, rows in kinds.items()}
saliency_report.sheet(shown, "Evidence for the predicted class, by kind of prediction")

# %% [markdown]
# ## Sanity check: does the heat map depend on the trained weights?
#
# Adebayo et al. (2018) found saliency methods whose maps look the same when the network's
# weights are random. Such maps detect edges and do not explain the prediction. The check
# randomises the head, then more and more layers from the top, and correlates each new map with
# that of the trained network. The correlation should fall to about 0.

# %%
import itertools

some = saliency_report.spread_over_cases(test, 12)
table = []
for share, draw in itertools.product((0.0, 0.25, 1.0), range(2)):
    noise = gradcam.randomize_weights(model, share, seed=draw)
    randomized = gradcam.class_evidence(noise, pixels[some], predicted[some])
    pairs = zip(evidence[some], randomized, strict=True)
    table += [(share, at, gradcam.rank_correlation(*pair)) for at, pair in enumerate(pairs)]
table = pd.DataFrame(table, columns=["share", "image", "rho"])
table = table.groupby(["share", "image"], as_index=False).mean()
saliency_report.randomization_curve(
    table, "Correlation with the trained network's heat map: 12 images, mean of 2 draws"
)

# %% [markdown]
# At 0 or below, the map depends on the trained weights. Near 1, it does not. A single random
# draw may by chance agree or disagree with the trained weights, so each dot is the mean of two.
#
# ## Comparison with the ground truth
#
# In drawn tissue it is known which nuclei determine the label: the size and shape of the
# epithelial nuclei depend on the subtype. For each malignant test image, the table shows how
# often a pixel of such a nucleus is hotter than another pixel. 0.5 is chance level.

# %%
from pathlib import Path

from breakhis_cls.synthetic import tree

malignant = test[(test["label"] == "malignant") & dataset.is_synthetic]
evidences = {"trained": gradcam.class_evidence(model, pixels, predicted * 0 + 1)}
evidences["randomised"] = gradcam.class_evidence(noise, pixels, predicted * 0 + 1)
ranked = []
for at, file in malignant["file"].items():
    mask = tree.epithelial_mask(Path(file).name)
    heats = {
        kind: gradcam.upsample_heat(cells[at], mask.shape) for kind, cells in evidences.items()
    }
    ranked.append({kind: gradcam.localization_auc(heat, mask) for kind, heat in heats.items()})
truth = pd.DataFrame(ranked, columns=list(evidences), dtype=float)
truth.describe().loc[["count", "mean", "min", "max"]].round(2)

# %% [markdown]
# Images of two cases are too few for a conclusion; the table only shows the method.
# `scripts/saliency_truth.py` measures the same on new cases, with an interval.
#
# In a terminal, `breakhis explain RUN` writes all this as a page.
# Next: [6. Your own model](06_your_own_model.ipynb).
