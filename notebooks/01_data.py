# %% [markdown]
# # 1. The data: what BreakHis contains, and its traps
#
# BreakHis contains 7,909 images of H&E-stained breast tumours, taken at four magnifications.
# This notebook indexes a folder of such images, counts them, shows some of them, and explains
# the properties of the data set that lead to errors.
#
# By default the images are **synthetic tissue**, drawn by a program. Nothing is downloaded,
# and the results say nothing about real tissue. For the real images, run `breakhis download` in
# a terminal (it says how to make a Kaggle token) and set `DATA` below to "data/breakhis", or to
# any folder that contains the images.
#
# On Colab or Kaggle, first install the package in a cell of its own: `%pip install` and an
# uploaded folder of it, or `git+https://` and its address. On Kaggle, attach the data set
# `ambarish/breakhis`, which the cell below finds. No one ran this notebook on Colab or Kaggle
# yet.

# %%
from breakhis_cls.notebook import setup

DATA = setup("synthetic")  # drawn tissue, or a folder with the images, such as "data/breakhis"

# %% [markdown]
# ## Index the images
#
# The index opens every image once and stores a table: the size, a hash of the file, and a hash
# of the decoded pixels. The second time, the table is read from `data/cache`.

# %%
from breakhis_cls import config, names
from breakhis_cls.data import index

settings = config.Data(root=DATA)
images, root = index.load_images(settings), index.find_root(settings)
images[["slide", "case", "subtype", "magnification", "width_px", "height_px"]].head(4)

# %% [markdown]
# The file name contains all labels of an image. Labels are read from file names, never from
# folders:

# %%
names.parse_image_name("SOB_B_A-14-22549AB-40-001.png")

# %% [markdown]
# Three terms are used from here on. An **image** is one PNG file. A **slide** is one folder of
# images; the literature calls it a patient. A **case** is the number in the slide's name
# without its block letters: the slides 22549AB, 22549CD and 22549G belong to case 22549.
# It is likely, but not documented, that equal numbers mean one woman.
#
# ## Count
#
# The loaded images, by subtype (the first four are benign, the others malignant):

# %%
kinds = {code: folder.replace("_", " ") for code, (folder, _) in names.SUBTYPES.items()}
counts = images.groupby("subtype")[["file", "slide", "case"]].nunique()
counts.reindex(list(kinds)).assign(name=list(kinds.values()))

# %% [markdown]
# All of BreakHis, from its 7,909 official file names. They are part of the package, so this
# needs no image. (The data set's home page says 9,109. The archive contains 7,909.)

# %%
from breakhis_cls.data import protocols, splits

official = protocols.official_images()
n_slides, n_cases = official["slide"].nunique(), official["case"].nunique()
print(f"{len(official):,} images, {n_slides} slides, {n_cases} case numbers")
counts = official.groupby(["label", "subtype", "magnification"]).size().unstack()
counts.assign(all=counts.sum(axis=1))

# %% [markdown]
# ## Look
#
# One image of each subtype at each magnification: four benign rows, then four malignant ones.

# %%
from breakhis_cls.reports import plots_images

plots_images.sample_sheet(images, root, "One image of each subtype and magnification")

# %% [markdown]
# ## Variation of the stain
#
# Haematoxylin stains nuclei blue, eosin stains the rest pink. The strength depends on the day,
# the thickness of the section and the camera, so each case has its own colour. Below is one
# image of each case, sorted by eosin.
#
# The amount of each stain is computed from the colours with the Beer-Lambert law and the known
# absorption of the two stains (Ruifrok and Johnston 2001).

# %%
from breakhis_cls.modeling import devices
from breakhis_cls.pipeline.pixel_store import PixelStore

devices.prepare(deterministic=True)  # before anything imports TensorFlow
from breakhis_cls.pipeline import stain_jitter

store = PixelStore.open(images, root, config.Image(height_px=46, width_px=70), settings.cache)
density = stain_jitter.to_optical_density(store.array[store.rows])
amounts = stain_jitter.to_stains(density).numpy().mean(axis=(1, 2))
stained = images.assign(haematoxylin=amounts[:, 0], eosin=amounts[:, 1])
stained[["haematoxylin", "eosin"]].describe().loc[["mean", "min", "max"]].round(2)

# %%
largest = stained["magnification"] == stained["magnification"].max()
shades = stained[largest].drop_duplicates("case").sort_values("eosin").head(24)
captions = shades["case"] + ", " + shades["subtype"]
plots_images.sheet(shades["file"], root, captions, "One image per case, sorted by eosin", 6)

# %% [markdown]
# At the lowest magnification, each dot is an image, connected to the mean of its case. Images
# of one case have similar colours, so a network can recognise a case by its colour. If a case
# is in training and in test, the network can use this. Notebook 2 shows the effect on scores.

# %%
from breakhis_cls.reports import plots

figure, axes = plots.new_figure(plots.COLUMN_IN, 3.2)
ax, stains = axes[0, 0], ["haematoxylin", "eosin"]
shown = stained[stained["magnification"] == stained["magnification"].min()]
means = shown.groupby("case")[stains].transform("mean")
for label, colour in (("benign", plots.BLUE), ("malignant", plots.VERMILION)):
    rows = shown["label"] == label
    ends = zip(shown[rows][stains].to_numpy(), means[rows].to_numpy(), strict=True)
    for image, mean in ends:
        ax.plot(*zip(image, mean, strict=True), ".-", color=colour, linewidth=0.5, markersize=4)
    ax.plot([], [], ".", color=colour, label=label)
ax.set(xlabel="haematoxylin (optical density)", ylabel="eosin (optical density)")
ax.legend(frameon=False, fontsize=7)
figure

# %%
from sklearn.neighbors import NearestNeighbors

nearest = NearestNeighbors(n_neighbors=2).fit(shown[stains]).kneighbors(shown[stains])[1][:, 1]
same = (shown["case"].to_numpy() == shown["case"].to_numpy()[nearest]).mean()
chance = (shown["case"].map(shown["case"].value_counts()) - 1).mean() / (len(shown) - 1)
print(f"the image nearest in stain is of the same case: {same:.0%} (by chance {chance:.0%})")

# %% [markdown]
# ## The traps
#
# **82 slides are not 82 patients.** Ten case numbers have two or three slides. A split by slide
# can put one slide of a case in training and another one in test:

# %%
slides = official.groupby("case")["slide"].unique()
several = slides[slides.map(len) > 1]
share = official["case"].isin(several.index).mean()
print(f"{len(several)} case numbers have several slides, with {share:.1%} of all images")
several.map(", ".join).str.replace("SOB_", "").to_frame("slides")

# %% [markdown]
# **One slide has two subtypes.** In BreakHis, slide 13412 is filed both as ductal and as
# lobular carcinoma: the pixels are equal, the bytes of the files are not. The synthetic tissue
# has this trap too. A hash of the file does not find it, a hash of the decoded pixels does:

# %%
from pathlib import Path

from breakhis_cls.data import leakage

duplicates = leakage.find_equal_pixels(images)
hashes = images["sha256"].nunique(), images["pixel_sha256"].nunique()
print(f"{len(images):,} images: {hashes[0]:,} different files, {hashes[1]:,} different pixels")
pair = duplicates[0] if duplicates else []
captions = [Path(file).name for file in pair]
title = "Equal pixels, two subtypes"
plots_images.sheet(pair, root, captions, title, 2) if pair else "no duplicates in these images"

# %% [markdown]
# The binary task keeps one copy, because both subtypes are malignant. In the subtype task both
# copies are left out, because one of the two labels must be wrong. (`data.duplicates` changes
# this.)

# %%
kept, dropped = splits.drop_duplicates(images, task="binary")
kept_subtype, dropped_subtype = splits.drop_duplicates(images, task="subtype")
print(f"binary: {len(dropped)} left out; subtype: {len(dropped_subtype)} left out")

# %% [markdown]
# **Not all images have the same size.** **Slides differ in their number of images**, so a mean
# over images and a mean over slides are different numbers.

# %%
print(images.groupby(["width_px", "height_px"]).size().to_string(), "\n")
per_slide = official.groupby("slide").size().sort_values()
print("images per slide, all of BreakHis:")
print(per_slide.iloc[[0, -1]].to_string())

# %% [markdown]
# **There are few benign cases.** 31 % of the images of BreakHis are benign, but they come from
# 16 case numbers, and three of these have almost half of the benign images. There are two cases
# of adenosis and three of phyllodes tumour. Results for benign tissue depend on few cases, even
# with many images. The six largest benign cases:

# %%
benign = official[official["label"] == "benign"].groupby("case")
per_case = benign.agg(images=("file", "size"), subtypes=("subtype", "unique"))
share = per_case["images"] / per_case["images"].sum()
per_case.assign(share=share.round(2)).sort_values("images", ascending=False).head(6)

# %% [markdown]
# [docs/dataset.md](../docs/dataset.md) lists all traps and how each was counted. Next: [2.
# Splits and leaks](02_splits_and_leaks.ipynb).
