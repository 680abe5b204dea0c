# %% [markdown]
# # 3. Training: the input of the network, and two phases of training
#
# This notebook shows each step from images to a trained network. They are the steps of
# `breakhis train`. [2. Splits and leaks](02_splits_and_leaks.ipynb) explains which images are
# in the test part.
#
# The images are **synthetic tissue** unless you change `DATA` below. They are small, so that
# two processor cores need two to four minutes for all of it. For BreakHis itself, use a
# GPU and `configs/binary_200x.yaml`. No one ran this notebook on Colab or Kaggle yet.

# %%
DATA = "synthetic"  # drawn tissue, or a folder with the images, such as "data/breakhis"

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
os.chdir(".." if Path("../pyproject.toml").is_file() else ".")  # data/ and runs/ are there
# %matplotlib inline

# %% [markdown]
# ## Settings
#
# One immutable object holds all settings of a run. Every setting has a default, and an unknown
# name is an error. The weights are **random**, so nothing is downloaded. For real tissue, leave
# out `image` and `model`: the defaults are ResNet50 with ImageNet weights and images of 230x350
# pixels. The number of epochs and the learning rate were chosen on this same fold, so the
# scores below show that the network learns, and nothing more.

# %%
from breakhis_cls import config

settings = config.Config(
    name="notebook",
    data=config.Data(root=DATA, magnifications=(40, 200)),
    image=config.Image(height_px=64, width_px=96),
    model=config.Model(weights="random", features=("conv4",)),
    head=config.Head(epochs=0),  # with random weights there is nothing to transfer
    tune=config.Tune(part="all", epochs=5, peak_lr=1e-3, label_smoothing=0.1),
    augment=config.Augment(stain=0.5),
)

# %% [markdown]
# ## The split
#
# The network is trained on the train part. The validation part is used to choose the best
# epoch, the thresholds and the temperature. The test part is used once, at the end. No case is
# in two parts.

# %%
from breakhis_cls.data.dataset import load_dataset

dataset = load_dataset(settings)
parts = dataset.split.groupby(["part", "label"])
print(*dataset.warnings, sep="\n")
parts[["file", "slide", "case"]].nunique().unstack("label")

# %% [markdown]
# ## Look at a batch
#
# Every image is decoded and resized once and kept in the pixel store. Batches are prepared
# while the network computes. The order of the rows depends only on (seed, epoch). Each image
# is in one of eight views (flips and quarter turns, because tissue has no up), and its stains
# are changed at random.

# %%
from breakhis_cls.modeling import devices
from breakhis_cls.pipeline.pixel_store import PixelStore

devices.prepare(deterministic=True)  # before anything imports TensorFlow
from breakhis_cls.pipeline import batches
from breakhis_cls.reports import plots_images

store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
train = dataset.in_part("train")
augment = settings.augment
about = {"views": batches.allowed_views(augment), "augment": augment}

# %%
rows = batches.TrainingRows(
    store.array, store.rows[train], dataset.one_hot_targets()[train], **about
)
one_epoch = batches.training_batches(rows, 12, seed=0, first_epoch=0, epochs=1)
images, targets, sample_weights = next(iter(one_epoch))
captions = [dataset.classes[at] for at in targets.numpy().argmax(axis=1)]
plots_images.sheet(images.numpy(), dataset.root, captions, "A batch of training images", 6)

# %% [markdown]
# The same image in six epochs. There are few cases, so without stain augmentation the network
# would learn the stain of each case instead of its tissue. Validation and test images are not
# augmented.

# %%
one = batches.TrainingRows(
    store.array, store.rows[train][:1], dataset.one_hot_targets()[train][:1], **about
)
stream = batches.training_batches(one, 1, seed=0, first_epoch=0, epochs=6)
augmented = [images.numpy()[0] for images, _, _ in stream]
captions = [f"epoch {epoch}" for epoch in range(6)]
plots_images.sheet(augmented, dataset.root, captions, "One image in six epochs", 6)

# %% [markdown]
# ## The model
#
# The model is ResNet50 up to its fourth block, with its preprocessing inside, then the mean
# over the image (global average pooling), then one dense layer with two probabilities.

# %%
from breakhis_cls.modeling import network

backbone = network.build_backbone(settings.model)
head = network.build_head(backbone.output_shape[-1], 2, settings.model.dropout, seed=0)
network.join_model(backbone, head, settings.image).summary(line_length=90)

# %% [markdown]
# ## Train
#
# The notebook starts the command that you would type in a terminal, and plots the run's history
# during training. If the command fails, the cell prints its output. The name of the run depends
# on everything that changes its result. So the second time, the finished run is found, and an
# interrupted run continues.

# %%
from breakhis_cls.modeling import run_folder
from breakhis_cls.modeling.weights import weights_identity

identity = weights_identity(settings.model)
name = run_folder.run_name(settings, dataset.sha256, identity, dataset.split)
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

log, shown = Path("runs/notebook.log"), 0
training = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)
while training.poll() is None:
    time.sleep(1)
    if len(run.history) > shown:  # plot once per epoch, because plotting slows the training
        shown = len(run.history)
        clear_output(wait=True)
        display(plots.learning_curves(run.history))
if training.returncode:
    print(log.read_text())

# %% [markdown]
# The network is trained from scratch on about a hundred images, so the curves are noisy. The
# run keeps the weights with the lowest validation loss. Their results on the test part:

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
# With pretrained weights, training has two phases. First, only the **head** is trained. The
# backbone is frozen, so its features are computed once and kept, and forty epochs take seconds.
# (`kind="keras"` trains it by epochs, as below. By default it is logistic regression, which is
# solved exactly: one dense layer on fixed features has one best solution.) Then a part of the
# backbone is unfrozen and **fine-tuned** with a small learning rate. Its BatchNorm layers stay
# frozen.
#
# This notebook has no ImageNet weights, so it uses the network that was just trained as the
# pretrained one: from 40X and 200X to 400X. (Fold 0 tests the same cases at all magnifications,
# so the network was not trained on any case of the new test images.) The weights are saved to a
# file, and the second run starts from it. You can use your own weights in the same way.

# %%
import keras

trained = (
    network.load_model(run.folder / "model.keras").get_layer("backbone").get_layer("trunk")
)
resnet = keras.applications.ResNet50(weights=None, include_top=False)
for layer in (layer for layer in trained.layers if layer.weights):
    resnet.get_layer(layer.name).set_weights(layer.get_weights())
start = run.folder / "resnet50.weights.h5"
if not start.is_file():  # the bytes of HDF5 differ each time, and a run's name depends on them
    resnet.save_weights(start)

# %%
changes = {
    "name": "notebook_transfer",
    "data": settings.data.model_copy(update={"magnifications": (400,)}),
    "model": config.Model(weights=str(start), features=("conv4",)),
    "head": config.Head(kind="keras", epochs=15),
    "tune": config.Tune(part="conv4", epochs=2),
}
settings = settings.model_copy(update=changes)
file = Path("runs/notebook_transfer.yaml")
file.write_text(config.dump_config(settings))
dataset = load_dataset(settings)
identity = weights_identity(settings.model)
name = run_folder.run_name(settings, dataset.sha256, identity, dataset.split)
run = run_folder.RunFolder(settings.run.dir / name, settings)

# %%
command = [sys.executable, "-m", "breakhis_cls.train", "--config", str(file)]
log, shown = Path("runs/notebook_transfer.log"), 0
training = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)
while training.poll() is None:
    time.sleep(1)
    if len(run.history) > shown:
        shown = len(run.history)
        clear_output(wait=True)
        display(plots.learning_curves(run.history))
if training.returncode:
    print(log.read_text())

# %% [markdown]
# The dotted line marks the start of fine-tuning. The run keeps the weights of the first phase
# unless the second phase has a lower validation loss. The training curves are better than the
# validation curves throughout: the network was trained on the training cases before, and a few
# validation cases say little. More cases would help; more epochs would hardly help.

# %%
pooled = json.loads((run.folder / "metrics.json").read_text())["pooled"]
pd.DataFrame({name: pooled[name] for name in metrics}).T[list(kinds)].astype(kinds).round(3)

# %% [markdown]
# Numbers from four test cases show only that training works. [4. Evaluation](04_evaluate.ipynb)
# explains the uncertainty of such numbers and further ways to evaluate a model.
