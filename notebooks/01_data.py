# %% [markdown]
# # 1. The data: what BreakHis is, and where it traps
#
# BreakHis holds 7,909 photographs of H&E-stained breast tumours, taken at four magnifications.
# This notebook indexes a tree of such images, counts and shows them, and looks at what has
# misled people before.
#
# By default the images are **synthetic tissue**, drawn by a program: nothing is downloaded,
# and what you see of it says nothing about real tissue. For the real images run `python -m
# breakhis_cls.download` in a terminal (it says how to make a Kaggle token) and set `DATA =
# "data/breakhis"` below, or name any folder that holds the tree. On Kaggle, attach the data
# set `ambarish/breakhis`; the cell looks where Kaggle mounts data sets. No one ran this
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
# ## Get and index
#
# The index opens every image once and keeps a table of what it found: the size, a hash of the
# file, and a hash of the decoded pixels. The second time, the table is read from `data/cache`.

# %%
from breakhis_cls import config, names
from breakhis_cls.data import index

settings = config.Data(root=DATA)
images, root = index.load_images(settings), index.find_root(settings)
images[["slide", "case", "subtype", "magnification", "width_px", "height_px"]].head(4)

# %% [markdown]
# A file name says everything about its image, so labels are read from names, never from
# folders:

# %%
names.parse_image_name("SOB_B_A-14-22549AB-40-001.png")

# %% [markdown]
# Three words matter from here on. An **image** is one photograph. A **slide** is one folder of
# images; the literature calls it a patient. A **case** is the number in the slide's name
# without its block letters: slide 22549AB is of case 22549, and so are 22549CD and 22549G.
# That equal numbers mean one woman is likely, but not documented.
#
# ## Count
#
# The images at hand, by subtype (the first four are benign, the others malignant):

# %%
kinds = {code: folder.replace("_", " ") for code, (folder, _) in names.SUBTYPES.items()}
counts = images.groupby("subtype")[["file", "slide", "case"]].nunique()
counts.reindex(list(kinds)).assign(name=list(kinds.values()))

# %% [markdown]
# And the whole of BreakHis, from its 7,909 official names, which the package ships; that needs
# no image. (The data set's home page says 9,109. The archive holds 7,909.)

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
# ## Stain variety
#
# Haematoxylin colours nuclei blue, eosin colours the rest pink. How strongly depends on the
# day, the thickness of the section and the camera, so every case has its own shade. Here is
# one image of each case, sorted by eosin.
#
# The amounts of the stains come from the colours by Beer and Lambert's law and the two stains'
# known absorption (Ruifrok and Johnston 2001).

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
plots_images.sheet(shades["file"], root, captions, "Every case has its own shade", 6)

# %% [markdown]
# At one magnification each dot is an image, tied to the mean of its case. Images of one case
# lie together, so a network can tell cases apart by colour. Of what it has seen in training it
# then knows the other images too, and notebook 2 shows what that does to scores.

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
# **82 slides are not 82 women.** Ten case numbers have two or three slides. A split by slide
# can put one of them in training and its sibling in the test:

# %%
slides = official.groupby("case")["slide"].unique()
several = slides[slides.map(len) > 1]
share = official["case"].isin(several.index).mean()
print(f"{len(several)} case numbers have several slides; {share:.1%} of all images are of them")
several.map(", ".join).str.replace("SOB_", "").to_frame("slides")

# %% [markdown]
# **One slide stands under two names.** In BreakHis, slide 13412 is filed both as ductal and as
# lobular carcinoma: equal pixels in files of different bytes. The synthetic tissue copies this
# trap. A hash of the file does not find it, a hash of the decoded pixels does:

# %%
from breakhis_cls.data import leakage

twins = leakage.find_equal_pixels(images)
hashes = images["sha256"].nunique(), images["pixel_sha256"].nunique()
print(
    f"{len(images):,} images: {hashes[0]:,} different files, {hashes[1]:,} different pictures"
)
pair = twins[0] if twins else []
captions = [Path(file).name for file in pair]
plots_images.sheet(
    pair, root, captions, "One picture, two names", 2
) if pair else "no twins here"

# %% [markdown]
# The binary task keeps one copy, since both names say malignant. For the subtypes one of the
# two names must be wrong, so both are left out. (`data.duplicates` changes that.)

# %%
kept, dropped = splits.drop_duplicates(images, task="binary")
kept_subtype, dropped_subtype = splits.drop_duplicates(images, task="subtype")
print(f"binary: {len(dropped)} left out; subtype: {len(dropped_subtype)} left out")

# %% [markdown]
# **Not all images have the same size**, and **slides differ in their number of images**: a
# mean over images and a mean over slides are different numbers.

# %%
print(images.groupby(["width_px", "height_px"]).size().to_string(), "\n")
per_slide = official.groupby("slide").size().sort_values()
print("images a slide, all of BreakHis:")
print(per_slide.iloc[[0, -1]].to_string())

# %% [markdown]
# **Few benign cases.** Benign images are 31 % of BreakHis, but they come from 16 case numbers,
# and three of those hold almost half of them. Of adenosis there are two cases, of phyllodes
# tumour three. Numbers about benign tissue rest on few women, however many images there are.
# The six largest benign cases:

# %%
benign = official[official["label"] == "benign"].groupby("case")
per_case = benign.agg(images=("file", "size"), subtypes=("subtype", "unique"))
share = per_case["images"] / per_case["images"].sum()
per_case.assign(share=share.round(2)).sort_values("images", ascending=False).head(6)

# %% [markdown]
# All traps, with how each was counted, are in [docs/dataset.md](../docs/dataset.md). Next: [2.
# Splits and leaks](02_splits_and_leaks.ipynb).
