"""Describe BreakHis for machines: docs/croissant.json (MLCommons Croissant 1.1), with three tables in docs/croissant/.

Everything comes from the package's own tables, so no image is needed: `make croissant`. As far as we know it is the
first machine-readable description of BreakHis with case numbers. The images are not part of it: Croissant asks for a
checksum of each file that it names, and neither Kaggle nor the authors publish one.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
from pathlib import Path

import mlcroissant as mlc
import pandas as pd

from breakhis_cls import names
from breakhis_cls.data import kaggle_download, protocols
from breakhis_cls.files import write_csv, write_text

DOCS = Path(__file__).resolve().parents[1] / "docs"
TWINS = ("SOB_M_DC_14-13412", "SOB_M_LC_14-13412")  # one slide under two subtypes
CITE = """@article{spanhol2016breakhis,
  author = {Spanhol, Fabio A. and Oliveira, Luiz S. and Petitjean, Caroline and Heutte, Laurent},
  title = {A Dataset for Breast Cancer Histopathological Image Classification},
  journal = {IEEE Transactions on Biomedical Engineering}, volume = {63}, number = {7}, year = {2016},
  doi = {10.1109/TBME.2015.2496264}}"""
DESCRIPTION = (
    "7,909 H&E images of breast tumours at 40X, 100X, 200X and 400X, benign or malignant, eight subtypes. The 82 slide "
    "folders, which the literature calls patients, carry only 70 case numbers; that equal numbers mean one woman is "
    "likely, but not documented. A split that keeps folders together but not case numbers may put one woman on both "
    "sides. The licence is CC BY 4.0 according to https://kaiko-ai.github.io/eva/main/datasets/breakhis; we do not "
    f"know what the authors' page says of it, which is the authority: {kaggle_download.AUTHORS}. Slide 13412 appears "
    "twice, as DC and as LC, with equal pixels in the 12 pairs that were compared: see the field twin. The archive "
    "itself is not listed, since no checksum of it is published; its file names are those of the field file."
)
# column -> data type and description
FIELDS = {
    "file": ("Text", "File name of the image, as in the archive."),
    "label": ("Text", "benign or malignant, as the file name says."),
    "subtype": ("Text", "A F PT TA (benign) or DC LC MC PC (malignant), as the file name says."),
    "slide": ("Text", "One of the 82 folders, which the literature calls patients."),
    "case": ("Text", "Number of the slide without its block letters: 70 in all. Text, since it is a name."),
    "magnification": ("Integer", "40, 100, 200 or 400."),
    "case_fold": ("Integer", "Fold, from 0, in which the case is tested: case folds of breakhis_cls, version 1."),
    **{
        f"spanhol_{fold}": ("Text", f"train or test in published fold {fold + 1} of 5 (Spanhol et al. 2016).")
        for fold in range(5)
    },
    "twin": ("Text", "Image of the same number under the other subtype of slide 13412; empty for all others."),
    "n_images": ("Integer", "Number of images."),
    "n_slides": ("Integer", "Number of slides with this case number."),
    "subtypes": ("Text", "Subtypes of the case's slides; three cases have two."),
}


def main() -> None:
    """Write the tables and the JSON, and print how many records each has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for croissant.json and croissant/")
    out = parser.parse_args().out
    tables = build_tables()
    for name, table in tables.items():
        write_csv(out / "croissant" / f"{name}.csv", table)
        print(f"{name}: {len(table):,} records")
    write_text(out / "croissant.json", json.dumps(describe(tables, out).to_json(), indent=1, default=str) + "\n")


def build_tables() -> dict[str, pd.DataFrame]:
    """images (7,909 rows), slides (82) and cases (70)."""
    spanhol = pd.read_csv(protocols.TABLES / "spanhol.csv").pivot(index="slide", columns="fold", values="part")
    spanhol = spanhol.add_prefix("spanhol_").reset_index()
    images = protocols.official_images()
    images = images.assign(file=images["file"].map(lambda file: Path(file).name))
    images = images.assign(case_fold=images["case"].map(protocols.frozen_case_folds())).merge(spanhol, on="slide")

    # Names of the two slides differ in the subtype alone; two images of each have no counterpart.
    other = images["file"].str.replace("_DC-", "_?-").str.replace("_LC-", "_DC-").str.replace("_?-", "_LC-")
    has_twin = images["slide"].isin(TWINS) & other.isin(images["file"])
    images["twin"] = other.where(has_twin, "")

    per_slide = images.groupby("slide", sort=False)
    slides = per_slide.first().drop(columns=["file", "magnification", "twin"]).assign(n_images=per_slide.size())
    slides = slides.reset_index()
    per_case = slides.groupby("case")
    cases = per_case.agg(
        label=("label", "first"), case_fold=("case_fold", "first"), n_slides=("slide", "size"),
        n_images=("n_images", "sum"), subtypes=("subtype", lambda column: " ".join(sorted(set(column)))),
    )  # fmt: skip
    counts = len(images), len(slides), len(cases)
    assert counts == (names.N_IMAGES, names.N_SLIDES, names.N_CASES), counts
    columns = [name for name in FIELDS if name in images]
    return {"images": images[columns], "slides": slides, "cases": cases.reset_index()}


def describe(tables: dict[str, pd.DataFrame], out: Path) -> mlc.Metadata:
    """The metadata of tables that lie in `out`/croissant."""
    keys = {"images": "file", "slides": "slide", "cases": "case"}
    says = {"images": "One record an image.", "slides": "One record a slide.", "cases": "One record a case number."}
    distribution, record_sets = [], []
    for name, table in tables.items():
        path = out / "croissant" / f"{name}.csv"
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        distribution.append(
            mlc.FileObject(
                id=path.name,
                name=path.name,
                description=f"{says[name]} Written by breakhis_cls from its tables.",
                content_url=f"croissant/{path.name}",
                encoding_formats=["text/csv"],
                sha256=digest,
            )
        )
        fields = []
        for column in table.columns:
            kind, description = FIELDS[column]
            fields.append(
                mlc.Field(
                    id=f"{name}/{column}",
                    name=column,
                    description=description,
                    data_types=getattr(mlc.DataType, kind.upper()),
                    source=mlc.Source(file_object=path.name, extract=mlc.Extract(column=column)),
                )
            )
        key = [f"{name}/{keys[name]}"]
        record_sets.append(mlc.RecordSet(id=name, name=name, description=says[name], key=key, fields=fields))
    authors = ("Fabio A. Spanhol", "Luiz S. Oliveira", "Caroline Petitjean", "Laurent Heutte")
    return mlc.Metadata(
        ctx=mlc.Context(conforms_to=["http://mlcommons.org/croissant/1.1"]),
        name="BreakHis",
        description=DESCRIPTION,
        cite_as=CITE,
        license=["https://creativecommons.org/licenses/by/4.0/"],
        url=kaggle_download.AUTHORS,
        same_as=[kaggle_download.URL],
        creators=[mlc.Person(name=name) for name in authors],
        publisher=[mlc.Organization(name="Laboratorio Visao Robotica e Imagem, Universidade Federal do Parana")],
        date_published=datetime.datetime(2016, 7, 1),
        version="1.0.0",
        keywords=["BreakHis", "histology", "breast cancer", "H&E", "patient-level split"],
        distribution=distribution,
        record_sets=record_sets,
    )


if __name__ == "__main__":
    main()
