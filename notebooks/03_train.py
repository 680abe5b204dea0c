# %% [markdown]
# # 3. Training: what the network sees, and two phases
#
# From images to a trained network, step by step. Everything here is what `breakhis train`
# does; the notebook only looks over its shoulder. Have a look at [2. Splits and
# leaks](02_splits_and_leaks.ipynb) first if you wonder who is tested.
#
# The images are **synthetic tissue** unless you say otherwise below, and small, so that two
# processor cores do it all in about two minutes. For BreakHis itself use a GPU and
# `configs/binary_200x.yaml`. No one ran this notebook on Colab or Kaggle yet.

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
# ## Settings
#
# One frozen value holds everything that a run depends on. What is not said has a default, and
# a misspelt name is an error. The weights are **random**: nothing is downloaded. For real
# tissue leave `image` and `model` out, which means ResNet50 with ImageNet weights on fields of
# 230x350 pixels. Epochs and rate were chosen while looking at this very fold, so the scores
# below show that it learns, and nothing more.

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
# ## Who is in which part
#
# Train is learned from; validation chooses the best epoch, thresholds and temperature; test is
# looked at once, at the end. No case is in two parts.

# %%
from breakhis_cls.data import dataset

at_hand = dataset.load_dataset(settings)
parts = at_hand.split.groupby(["part", "label"])
print(*at_hand.warnings, sep="\n")
parts[["file", "slide", "case"]].nunique().unstack("label")

# %% [markdown]
# ## Batches as pictures
#
# Every image is decoded and resized once, into the pixel store. A batch is then made while the
# network computes: rows in an order that is a function of (seed, epoch), each in one of eight
# views (flips and quarter turns; tissue has no up), with its stains jittered.

# %%
from breakhis_cls.modeling import devices
from breakhis_cls.pipeline.pixel_store import PixelStore

devices.prepare(deterministic=True)  # before anything imports TensorFlow
from breakhis_cls.pipeline import batches
from breakhis_cls.reports import plots_images

store = PixelStore.open(at_hand.images, at_hand.root, settings.image, settings.data.cache)
train = at_hand.in_part("train")
augment = settings.augment
about = {"views": batches.allowed_views(augment), "augment": augment}

# %%
rows = batches.TrainingRows(
    store.array, store.rows[train], at_hand.one_hot_targets()[train], **about
)
batches = batches.training_batches(rows, 12, seed=0, first_epoch=0, epochs=1)
images, targets, weights = next(iter(batches))
captions = [at_hand.classes[at] for at in targets.numpy().argmax(axis=1)]
plots_images.sheet(images.numpy(), at_hand.root, captions, "A batch, as the network sees it", 6)

# %% [markdown]
# One and the same image over six epochs. There are few cases, so without the jitter the
# network would learn their stains instead of their tissue. Validation and test images are
# never changed.

# %%
one = batches.TrainingRows(
    store.array, store.rows[train][:1], at_hand.one_hot_targets()[train][:1], **about
)
stream = batches.training_batches(one, 1, seed=0, first_epoch=0, epochs=6)
seen = [images.numpy()[0] for images, _, _ in stream]
captions = [f"epoch {epoch}" for epoch in range(6)]
plots_images.sheet(seen, at_hand.root, captions, "One image, six epochs", 6)

# %% [markdown]
# ## The model
#
# ResNet50 up to its fourth block, with its own preprocessing inside, then the mean over the
# field, then one layer that gives two probabilities.

# %%
from breakhis_cls.modeling import network

backbone = network.build_backbone(settings.model)
head = network.build_head(backbone.output_shape[-1], 2, settings.model.dropout, seed=0)
network.join_model(backbone, head, settings.image).summary(line_length=90)

# %% [markdown]
# ## Train, and watch
#
# The notebook starts the same command that you would type, and draws the run's history while
# it grows. The run's name tells what it depends on, so a second time it is found finished, and
# an interrupted one goes on where it was.

# %%
from breakhis_cls.modeling import run_folder

name = run_folder.run_name(
    settings, at_hand.sha256, weights.weights_identity(settings.model), at_hand.split
)
run = run_folder.RunFolder(settings.run.dir / name, settings)
file = Path("runs/notebook.yaml")
file.parent.mkdir(exist_ok=True)
file.write_text(config.dump_config(settings))
command = [sys.executable, "-m", "breakhis_cls.train", "--config", str(file)]
print("breakhis train --config", file, "->", run.folder)

# %%
import time

from IPython.display import clear_output, display

from breakhis_cls.reports import plots

training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
shown = 0
while training.poll() is None:
    time.sleep(1)
    if len(run.history) > shown:  # drawing takes time from the training beside it
        shown = len(run.history)
        clear_output(wait=True)
        display(plots.learning_curves(run.history))

# %% [markdown]
# From scratch on some hundred images the curves are restless. The weights with the lowest
# validation loss are the ones that are kept. What they reach on the test part:

# %%
import json

import pandas as pd

metrics = ["roc_auc", "image_accuracy", "balanced_accuracy"]
kinds = {"value": float, "n_images": int, "n_cases": int}
pooled = json.loads((run.folder / "metrics.json").read_text())["pooled"]
pd.DataFrame({name: pooled[name] for name in metrics}).T[list(kinds)].astype(kinds).round(3)

# %% [markdown]
# ## Two phases
#
# With pretrained weights training has two phases. First the **head** alone: the backbone is
# frozen, so its features are computed once and kept, and forty epochs take seconds. Then a
# part of the backbone is opened and **tuned** with a small learning rate, BatchNorm frozen.
#
# There is no ImageNet here, so the network that was just trained serves as the pretrained one:
# from 40X and 200X to 400X. (Fold 0 tests the same cases at all magnifications, so
# none of the new test images is of a case that it has learned from.) Its weights go into a
# file, and a second run starts from that, as you would with your own.

# %%
import keras

trained = (
    network.load_model(run.folder / "model.keras").get_layer("backbone").get_layer("trunk")
)
resnet = keras.applications.ResNet50(weights=None, include_top=False)
for layer in (layer for layer in trained.layers if layer.weights):
    resnet.get_layer(layer.name).set_weights(layer.get_weights())
start = run.folder / "resnet50.weights.h5"
if not start.is_file():  # HDF5 has other bytes each time, and they are part of a run's name
    resnet.save_weights(start)

# %%
changes = {
    "name": "notebook_transfer",
    "data": settings.data.model_copy(update={"magnifications": (400,)}),
    "model": config.Model(weights=str(start), features=("conv4",)),
    "head": config.Head(epochs=15),
    "tune": config.Tune(part="conv4", epochs=2),
}
settings = settings.model_copy(update=changes)
file = Path("runs/notebook_transfer.yaml")
file.write_text(config.dump_config(settings))
at_hand = dataset.load_dataset(settings)
weights = weights.weights_identity(settings.model)
name = run_folder.run_name(settings, at_hand.sha256, weights, at_hand.split)
run = run_folder.RunFolder(settings.run.dir / name, settings)

# %%
command = [sys.executable, "-m", "breakhis_cls.train", "--config", str(file)]
training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
shown = 0
while training.poll() is None:
    time.sleep(1)
    if len(run.history) > shown:
        shown = len(run.history)
        clear_output(wait=True)
        display(plots.learning_curves(run.history))

# %% [markdown]
# The dotted line marks where fine-tuning begins; the second phase keeps what the first had
# reached unless it does better on validation. Training does better than validation all the way:
# the network knows the training cases from before, and three validation cases are few. More
# cases would help, more epochs hardly.

# %%
pooled = json.loads((run.folder / "metrics.json").read_text())["pooled"]
pd.DataFrame({name: pooled[name] for name in metrics}).T[list(kinds)].astype(kinds).round(3)

# %% [markdown]
# Numbers from four test cases are little more than a sign that it works. How sure one can be,
# and what else to ask of a model, is in [4. Evaluation](04_evaluate.ipynb).
