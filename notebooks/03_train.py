# %% [markdown]
# # 3. Training: a ResNet50 in Keras
#
# This notebook trains a network that says whether an image shows benign or malignant tissue.
# What is special about BreakHis (which images there are, which case is in which part, how a
# batch is made) is a call of the package. Everything else is plain Keras: the layers,
# `compile`, `fit`, `predict`. The last section does the same with one function, and gets the
# same predictions.
#
# The images are **synthetic tissue** unless you change `DATA` below. They are small, and
# nothing is downloaded: two processor cores need about two minutes. On Colab or Kaggle, first
# install the package in a cell of its own: `%pip install` and an uploaded folder of it, or
# `git+https://` and its address. No one ran this notebook on Colab or Kaggle yet.

# %%
from breakhis_cls.notebook import setup

DATA = setup("synthetic")  # drawn tissue, or a folder with the images, such as "data/breakhis"

# %% [markdown]
# ## Settings
#
# One object holds all settings of a run; an unknown name is an error. These begin with the
# small config `notebook` and change some of it: images at 400X, and two phases of training,
# called `head` and `tune`. For real tissue, begin with the config `finetune_200x` instead.

# %%
import breakhis_cls as bk

changes = {
    "name": "notebook_transfer",
    "data.root": DATA,
    "data.magnifications": [400],
    "model.weights": "runs/start.weights.h5",  # made below; for real tissue: "imagenet"
    "head.kind": "keras",
    "head.epochs": 8,
    "tune.part": "conv4",
    "tune.epochs": 2,
    "tune.peak_lr": 3e-5,
}
settings = bk.load_config("notebook", **changes)

# %% [markdown]
# ## The data set
#
# The network learns from the **train** part. The **validation** part decides when to stop. The
# **test** part is predicted once, at the end. All images of a case (see [2. Splits and
# leaks](02_splits_and_leaks.ipynb)) are in one part, so the network is tested on cases that it
# has never seen.

# %%
dataset = bk.load_dataset(settings)
print(*dataset.warnings, sep="\n")
parts = dataset.split.groupby(["part", "label"])
parts[["file", "slide", "case"]].nunique().unstack("label")

# %% [markdown]
# ## Look at a batch
#
# Each image is decoded and resized once and kept in the **pixel store**. The batches are a
# `tf.data.Dataset`, prepared while the network computes.

# %%
from breakhis_cls.modeling import devices

devices.prepare(deterministic=True)  # the same numbers every time; before Keras is imported
import keras

from breakhis_cls.modeling import training
from breakhis_cls.pipeline import batches
from breakhis_cls.pipeline.pixel_store import PixelStore

store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
views = batches.allowed_views(settings.augment)
train, validation = training.build_rows(settings, dataset, store.array, store.rows, views)

# %%
from breakhis_cls.reports import plots_images

tune = settings.tune
train_batches = batches.training_batches(train, tune.batch_size, 0, 0, tune.epochs)
validation_batches = batches.validation_batches(validation, tune.batch_size)
images, targets, sample_weights = next(iter(train_batches))
captions = [dataset.classes[at] for at in targets.numpy().argmax(axis=1)]
plots_images.sheet(
    images.numpy()[:12], dataset.root, captions[:12], "Twelve training images", 6
)

# %% [markdown]
# Tissue has no up or down, so a training image may be mirrored and turned. Its stains are
# changed at random, because there are few cases and the network would learn the stain of each
# case instead of its tissue. Below is one image in six epochs. Validation and test images are
# never changed.

# %%
one = batches.TrainingRows(
    store.array, train.index[:1], train.targets[:1], views=views, augment=settings.augment
)
stream = batches.training_batches(one, batch_size=1, seed=0, first_epoch=0, epochs=6)
augmented = [images.numpy()[0] for images, _, _ in stream]
captions = [f"epoch {epoch}" for epoch in range(1, 7)]
plots_images.sheet(augmented, dataset.root, captions, "One image in six epochs", 6)

# %% [markdown]
# ## Weights to begin with
#
# Few images train a network best if it has learned to see before. With `"imagenet"`, Keras
# downloads a ResNet50 that has learned from a million photographs. This notebook downloads
# nothing. Instead, it first trains a small network on tissue drawn at 40X and 200X, with one
# call of the package, and starts from its weights. (The cases of the test part are the same at
# every magnification, so none of them was in training.)

# %%
from pathlib import Path

from breakhis_cls.modeling import network

first = bk.train_run(bk.load_config("notebook", **{"data.root": DATA}), report=False)
trained = network.load_run_model(first.folder).get_layer("backbone").get_layer("trunk")
resnet = keras.applications.ResNet50(weights=None, include_top=False)
for layer in (layer for layer in trained.layers if layer.weights):
    resnet.get_layer(layer.name).set_weights(layer.get_weights())
if not Path(settings.model.weights).is_file():
    resnet.save_weights(settings.model.weights)

# %% [markdown]
# ## The model
#
# The **backbone** is the ResNet50 of `keras.applications` up to its fourth block. It has
# ResNet50's own preprocessing inside (its input is the unchanged image, 0 to 255) and ends with
# the mean over the image, 1,024 numbers that are called **features**.

# %%
keras.utils.set_random_seed(settings.run.seed)
backbone = network.build_backbone(settings.model)
backbone.summary(line_length=88)

# %% [markdown]
# The **head** turns the features of an image into two probabilities. It first standardises
# them, with the mean and the spread of the training images. Its layer begins at zero, with a
# penalty on large weights, as logistic regression has.

# %%
import numpy as np

from breakhis_cls.modeling.head import l2_of_mean_loss

n_cases = dataset.split.loc[dataset.in_part("train"), "case"].nunique()
penalty = keras.regularizers.L2(l2_of_mean_loss(settings.head.C, n_cases, n_classes=2))
zeros = {"kernel_initializer": "zeros", "kernel_regularizer": penalty}
head = keras.Sequential([
    keras.Input([backbone.output_shape[-1]]),
    keras.layers.Normalization(name="standardise"),
    keras.layers.Dropout(settings.model.dropout, seed=settings.run.seed),
    keras.layers.Dense(2, "softmax", name="probabilities", **zeros),
])  # fmt: skip

# %% [markdown]
# ## Phase 1: train the head
#
# The backbone is **frozen**: its weights do not change, so it gives the same features in every
# epoch. They are computed once, and the head is trained on them in seconds.

# %%
features = backbone.predict(store.array[store.rows], batch_size=32, verbose=0)
head.get_layer("standardise").adapt(features[dataset.in_part("train")])
rows = training.build_rows(settings, dataset, features, np.arange(len(features)))
of_head = settings.head
head_batches = batches.training_batches(rows[0], of_head.batch_size, 0, 0, of_head.epochs)
head_validation = batches.validation_batches(rows[1], of_head.batch_size)

# %% [markdown]
# **Compile**: the loss, and an optimizer whose learning rate rises in the first tenth of the
# steps and then falls to zero along a cosine.

# %%
n_steps = batches.count_batches(len(rows[0]), of_head.batch_size)
n_total = n_steps * of_head.epochs
n_warmup = round(of_head.warmup_share * n_total)
schedule = keras.optimizers.schedules.CosineDecay(
    0.0, n_total - n_warmup, warmup_target=of_head.peak_lr, warmup_steps=n_warmup
)
optimizer = keras.optimizers.AdamW(schedule, weight_decay=of_head.weight_decay)
head.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])

# %% [markdown]
# **Fit**, with a curve that grows with each epoch. The callback `EpochCheckpoint` stops
# early and keeps the weights of the epoch with the lowest validation loss. It does more than
# Keras's `EarlyStopping`: dropout depends on the epoch alone, so that a run that was
# interrupted continues with the same numbers.

# %%
import pandas as pd
from IPython.display import display

from breakhis_cls.modeling.fit import EpochCheckpoint
from breakhis_cls.reports import plots

best = EpochCheckpoint(Path("runs/by_hand/head"), of_head, seed=settings.run.seed)
past = []  # of earlier phases
curve = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda *_: display(
        plots.learning_curves(pd.DataFrame(past + best.history)), clear=True
    )
)

# %%
in_order = {"shuffle": False, "verbose": 0}  # the batches come shuffled already
head.fit(
    head_batches, validation_data=head_validation, epochs=of_head.epochs,
    steps_per_epoch=n_steps, callbacks=[best, curve], **in_order,
)  # fmt: skip
head.set_weights(best.best_weights)

# %% [markdown]
# ## Phase 2: unfreeze and fine-tune
#
# Now the fourth block is **unfrozen** and trained together with the head, with a small learning
# rate, so that it changes its features a little. Its BatchNorm layers stay frozen: a small
# batch gives poor estimates of mean and spread. The penalty of the head is switched off: the
# small learning rate and early stopping take its place. All this counts from the next `compile`
# on.

# %%
size = settings.image
image = keras.Input((size.height_px, size.width_px, 3), dtype="uint8")
model = keras.Model(image, head(backbone(image)))
for layer in backbone.get_layer("trunk").layers:
    is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
    layer.trainable = layer.name.startswith("conv4") and not is_batch_norm
head.get_layer("probabilities").kernel.regularizer = None

# %%
n_steps = batches.count_batches(len(train), tune.batch_size)
n_total = n_steps * tune.epochs
n_warmup = round(tune.warmup_share * n_total)
schedule = keras.optimizers.schedules.CosineDecay(
    0.0, n_total - n_warmup, warmup_target=tune.peak_lr, warmup_steps=n_warmup
)
optimizer = keras.optimizers.AdamW(schedule, weight_decay=tune.weight_decay)
loss = keras.losses.CategoricalCrossentropy(label_smoothing=tune.label_smoothing)
model.compile(optimizer, loss, metrics=["accuracy"])

# %% [markdown]
# Fine-tuning has to beat the head: `start_from` puts the weights of phase 1 into the contest.
# They are kept unless an epoch has a lower validation loss.

# %%
past = best.history
best = EpochCheckpoint(Path("runs/by_hand/tune"), tune, settings.run.seed, len(past))
best.start_from(model, validation_batches)
model.fit(
    train_batches, validation_data=validation_batches, epochs=tune.epochs,
    steps_per_epoch=n_steps, callbacks=[best, curve], **in_order,
)  # fmt: skip
model.set_weights(best.best_weights)

# %% [markdown]
# The dotted line marks the start of phase 2. The training curves are better than the validation
# curves throughout: the network has seen the training cases before, and a few validation cases
# say little. More cases would help; more epochs would hardly help.
#
# ## Predict, and count
#
# The predicted label of an image is the class with the higher probability.

# %%
from sklearn.metrics import ConfusionMatrixDisplay

test = dataset.in_part("test")
probabilities = model.predict(store.array[store.rows[test]], batch_size=32, verbose=0)
truth = dataset.split["label"][test]
predicted = np.asarray(dataset.classes)[probabilities.argmax(axis=1)]
matrix = ConfusionMatrixDisplay.from_predictions(truth, predicted, cmap="Blues", colorbar=False)
# %% [markdown]
# ## From notebook to package
#
# Every cell above has its place in the package, and one command does them all:
#
# | here | module | in a terminal |
# |---|---|---|
# | settings | `config` | `--config`, and any `--section.setting value` |
# | the data set | `data.dataset` | `breakhis audit` checks its split |
# | batches | `pipeline.pixel_store`, `pipeline.batches` | `breakhis train` |
# | backbone and head | `modeling.network` | `breakhis train` |
# | compile and fit, both phases | `modeling.training`, `modeling.fit` | `breakhis train` |
# | predict | `modeling.training` | `breakhis train`; `breakhis predict` for other images |
# | confusion matrix and curves | `evaluation`, `reports` | `breakhis evaluate` |
#
# As a function it is `bk.train_run`. It also keeps what it does, so the second time it finds
# the run finished; killed at any moment, it continues. It returns the run, which shows itself:

# %%
run = bk.train_run(settings)
run

# %% [markdown]
# Its predictions of the test images are those of the cells above:

# %%
table = run.predictions.set_index("file").loc[dataset.images["file"][test]]
difference = np.abs(table[["p_benign", "p_malignant"]].to_numpy() - probabilities).max()
print("largest difference between two probabilities:", difference)

# %% [markdown]
# In a terminal the same run is one line. The report that it leaves is one HTML page that needs
# no internet connection:

# %%
options = " ".join(f"--{name} {value}" for name, value in changes.items())
print("breakhis train --config notebook", options.replace("[400]", "400"))
print(run.report())

# %% [markdown]
# Numbers from four test cases show only that training works. [4. Evaluation](04_evaluate.ipynb)
# explains how uncertain they are, and other ways to evaluate a model.
