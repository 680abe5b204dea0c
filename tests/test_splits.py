"""Which images train and which test: the guarantees of every protocol."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from breakhis_cls import names
from breakhis_cls.config import Split
from breakhis_cls.data import balanced_folds, protocols, splits
from breakhis_cls.errors import ConfigError, DataError
from breakhis_cls.synthetic import tree

IMAGES = protocols.official_images()
GROUPS = dict.fromkeys(("slide", "spanhol", "kaiko_eva", "thunder"), "slide") | {"case": "case", "nanopath": "case"}
magnifications = st.sets(st.sampled_from(names.MAGNIFICATIONS), min_size=1)


def all_folds(images: pd.DataFrame, **split) -> pd.DataFrame:
    n_folds = splits.count_folds(Split(**split))
    return pd.concat([splits.assign_split(images, Split(fold=fold, **split)) for fold in range(n_folds)])


# Facts


def test_official_names_are_those_of_the_archive(shared):
    lines = (shared / "breakhis" / "facts" / "paths.txt").read_text().split()
    assert sorted(line.partition("/")[2] for line in lines) == IMAGES["file"].tolist()


def test_official_names_count_as_they_must():
    counts = len(IMAGES), IMAGES["slide"].nunique(), IMAGES["case"].nunique()
    assert counts == (names.N_IMAGES, names.N_SLIDES, names.N_CASES)
    for magnification in names.MAGNIFICATIONS:
        found = IMAGES.loc[IMAGES["magnification"] == magnification].groupby("slide").size()
        assert found.to_dict() == protocols.slides().set_index("slide")[f"n_{magnification}x"].to_dict()


def test_published_sizes():
    spanhol = [splits.assign_test(IMAGES, Split(protocol="spanhol", fold=fold)) for fold in range(5)]
    assert [(table["part"] == "test").sum() for table in spanhol] == [2_904, 2_403, 2_577, 2_698, 3_083]
    kaiko = splits.assign_test(IMAGES, Split(protocol="kaiko_eva"))
    assert kaiko["part"].value_counts().to_dict() == {"train": 1_132, "test": 339}
    thunder = splits.assign_split(IMAGES, Split(protocol="thunder"))
    assert thunder["part"].value_counts().to_dict() == {"train": 936, "test": 339, "validation": 196}
    assert thunder.groupby("part")["slide"].nunique().to_dict() == {"train": 40, "test": 14, "validation": 10}
    nanopath = splits.assign_test(IMAGES, Split(protocol="nanopath"))
    parts = thunder.set_index("file")["part"].replace("test", np.nan).replace("validation", "test").dropna()
    assert nanopath.set_index("file")["part"].to_dict() == parts.to_dict()
    for table in (kaiko, thunder):
        assert set(table["magnification"]) == {40}
        assert set(table["subtype"]) == set(splits.class_names("subtype", "thunder"))


def test_classes():
    assert splits.class_names("binary", "kaiko_eva") == ("benign", "malignant")
    assert splits.class_names("subtype", "case") == ("A", "F", "PT", "TA", "DC", "LC", "MC", "PC")
    assert splits.class_names("subtype", "kaiko_eva") == ("TA", "MC", "F", "DC")


# The frozen folds


def test_frozen_folds_are_what_was_frozen():
    table = protocols.frozen_case_folds().reset_index()
    frozen = "c39998873c731011866818ece6ecf00371f1ae6f52374ecef22f2e669cb89b08"
    assert (protocols.FROZEN_VERSION, protocols.frozen_sha256(table)) == (1, frozen)
    assert set(table["case"]) == set(IMAGES["case"])


def test_frozen_folds_refuse_to_be_edited(tmp_path, monkeypatch):
    shutil.copytree(protocols.TABLES, tmp_path / "tables")
    path = tmp_path / "tables" / "case.csv"
    path.write_text(path.read_text().replace("10926,", "10926,1"))
    monkeypatch.setattr(protocols, "TABLES", tmp_path / "tables")
    with pytest.raises(DataError, match="not the frozen version 1"):
        protocols.frozen_case_folds.__wrapped__()


def is_balanced(fold_of_case: pd.Series) -> bool:
    images = IMAGES.assign(fold=IMAGES["case"].map(fold_of_case))
    benign_cases = images.loc[images["label"] == "benign"].groupby("fold")["case"].nunique()
    benign_share = (images["label"] == "benign").groupby(images["fold"]).mean()
    n_images, n_cases = images.groupby("fold").size(), images.groupby("fold")["case"].nunique()
    return bool(
        benign_cases.min() >= 3
        and (benign_share - 0.31).abs().max() <= 0.06
        and n_images.max() / n_images.min() < 1.15
        and n_cases.between(13, 15).all()
    )


def test_frozen_folds_are_balanced():
    assert is_balanced(protocols.frozen_case_folds())
    assert balanced_folds.imbalance(IMAGES, "case", protocols.frozen_case_folds()) < 1.5090


@pytest.mark.parametrize("seed", [0, 1, 2, 2_026])
def test_new_folds_are_balanced_and_repeatable(seed):
    folds = balanced_folds.allocate_groups(IMAGES, "case", [0.2] * 5, (seed,))
    assert is_balanced(folds)
    assert folds.equals(
        balanced_folds.allocate_groups(IMAGES.sample(frac=1, random_state=3), "case", [0.2] * 5, (seed,))
    )


def test_frozen_folds_hold_for_any_subset_of_images():
    some = IMAGES.sample(3_000, random_state=0)
    whole = splits.assign_test(IMAGES, Split(fold=3)).set_index("file")["part"]
    part = splits.assign_test(some, Split(fold=3)).set_index("file")["part"]
    assert part.equals(whole[part.index])


def test_a_seed_or_another_number_of_folds_makes_new_ones():
    frozen = splits.assign_test(IMAGES, Split())["part"]
    assert not frozen.equals(splits.assign_test(IMAGES, Split(seed=0))["part"])
    assert splits.count_folds(Split(n_folds=3)) == 3
    foreign = IMAGES.assign(slide=IMAGES["slide"].replace("SOB_B_A_14-22549G", "SOB_B_A_14-22549H"))
    assert not frozen.equals(splits.assign_test(foreign, Split())["part"])


# Properties


@settings(max_examples=25)
@given(
    protocol=st.sampled_from(["case", "slide", "spanhol", "kaiko_eva", "thunder", "nanopath", "image"]),
    seed=st.none() | st.integers(0, 9_999),
    n_folds=st.integers(2, 9),
    magnified=magnifications,
    share=st.floats(0.05, 0.5),
    data=st.data(),
)
def test_promises(protocol, seed, n_folds, magnified, share, data):
    if protocol in protocols.LEADERBOARDS:
        magnified = magnified | {40}
    images = IMAGES.loc[IMAGES["magnification"].isin(magnified)]
    settings = {"protocol": protocol, "n_folds": n_folds, "seed": seed, "validation_share": share}
    fold = data.draw(st.integers(0, splits.count_folds(Split(**settings)) - 1))
    split = Split(fold=fold, allow_leaks=protocol == "image", **settings)
    images = splits.select_images(images, split)
    table = splits.assign_split(images, split)
    assert table["file"].tolist() == images["file"].tolist()
    assert not table["file"].duplicated().any()
    assert set(table["part"]) == {"train", "validation", "test"}
    test, train = table.loc[table["part"] == "test"], table.loc[table["part"] == "train"]
    validation = table.loc[table["part"] == "validation"]
    if protocol != "image":
        group = GROUPS[protocol]
        assert not set(test[group]) & set(table.loc[table["part"] != "test", group])
        validated_by = "slide" if protocol == "slide" and n_folds > 2 else "case"
        assert not set(train[validated_by]) & set(validation[validated_by])
        assert (table.groupby("slide")["part"].nunique() == 1).all()
        assert set(validation["label"]) == set(train["label"]) == {"benign", "malignant"}


@pytest.mark.parametrize("protocol", ["case", "slide", "image", "spanhol"])
def test_validation_rotates_over_the_folds(protocol):
    tables = []
    for fold in range(5):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tables.append(splits.assign_split(IMAGES, Split(protocol=protocol, fold=fold, allow_leaks=True)))
        # Of adenosis one case is tested in fold 1 and the other in fold 2, where fold 1 would validate.
        stays = [str(warning.message) for warning in caught]
        assert len(stays) == (protocol == "case" and fold == 1) and all("no image of A: they stay" in s for s in stays)
        assert set(tables[-1].query("part == 'train'")["subtype"]) == set(IMAGES["subtype"])
    files = [{part: set(rows["file"]) for part, rows in table.groupby("part")} for table in tables]
    validated = pd.concat([table.query("part == 'validation'") for table in tables])
    assert not validated.duplicated("file").any()
    assert (validated.groupby(["fold", "label"])["case"].nunique() >= 2).all()
    if protocol == "spanhol":  # whose test parts overlap: cases are shared out anew
        assert validated.drop_duplicates(["case", "fold"])["case"].is_unique and validated["case"].nunique() == 55
    for fold in range(5 if protocol != "spanhol" else 0):
        rotated = files[(fold + 1) % 5]["test"]
        assert files[fold]["validation"] == rotated or (protocol, fold) == ("case", 1)
        assert files[fold]["validation"] <= rotated
    if protocol == "case":
        assert validated["case"].nunique() == 69


def test_the_next_fold_validates_that_has_every_class():
    """Without the benign cases of fold 1, fold 0 validates on fold 2; two folds, or no such fold: a share by case."""
    folds = protocols.frozen_case_folds()
    lacking = IMAGES[~((IMAGES["case"].map(folds) == 1) & (IMAGES["label"] == "benign"))]
    table = splits.assign_split(lacking, Split())
    assert set(lacking.loc[table["part"] == "validation", "case"].map(folds)) == {2}
    for images, split, task in ((IMAGES, Split(n_folds=2), "binary"), (IMAGES, Split(), "subtype")):
        table = splits.assign_split(images, split, task)
        of = table.loc[table["part"] == "validation", "case"]
        share = of.nunique() / table.loc[table["part"] != "test", "case"].nunique()
        assert 0.1 < share < 0.3 and not set(of) & set(table.loc[table["part"] == "train", "case"])
        assert set(table.query("part == 'train'")["subtype"]) == set(images["subtype"])


def test_inner_folds_are_of_cases_and_hold_both_labels():
    seen = splits.assign_split(IMAGES, Split()).query("part != 'test'")
    folds = splits.assign_inner_folds(seen, Split())
    assert sorted(set(folds)) == [0, 1, 2, 3, 4]
    assert (
        seen.groupby("case")["file"].size().sum() == len(seen)
        and (pd.Series(folds, seen.index).groupby(seen["case"]).nunique() == 1).all()
    )
    for fold in range(5):
        assert set(seen.loc[folds != fold, "label"]) == {"benign", "malignant"}
    two_benign = seen[(seen["label"] == "malignant") | seen["case"].isin(["22549", "9133"])]
    assert set(splits.assign_inner_folds(two_benign, Split())) == {0, 1}
    assert set(splits.assign_inner_folds(two_benign[two_benign["case"] != "9133"], Split())) == {0}


@settings(max_examples=6)
@given(seed=st.integers(0, 9_999), n_folds=st.integers(2, 6), magnified=magnifications)
def test_every_image_is_tested_once(seed, n_folds, magnified):
    images = IMAGES.loc[IMAGES["magnification"].isin(magnified)]
    for protocol in ("case", "image"):
        split = {"protocol": protocol, "seed": seed, "n_folds": n_folds, "allow_leaks": True}
        tested = pd.concat(
            splits.assign_test(images, Split(fold=fold, **split)).query("part == 'test'")["file"]
            for fold in range(n_folds)
        )
        assert sorted(tested) == sorted(images["file"])


@settings(max_examples=25)
@given(seed=st.integers(0, 999), n_slides=st.integers(14, 40))
def test_small_samples_work_and_report_missing_classes(seed, n_slides):
    chosen = np.random.default_rng(seed).choice(protocols.slides()["slide"], n_slides, replace=False)
    images = IMAGES.loc[IMAGES["slide"].isin(chosen)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # subtypes that stay in train
        table = splits.assign_split(images, Split(n_folds=3, seed=seed))
    n_labels = table.groupby("part")["label"].nunique()
    lacking = set(n_labels.index[n_labels < images["label"].nunique()])
    messages = splits.split_warnings(table)
    assert {part for part in lacking if any(line.startswith(part) for line in messages)} == lacking
    train = table.loc[table["part"] != "test"]
    if (train.groupby("label")["case"].nunique() >= 2).all() and train["label"].nunique() == 2:
        assert "validation" not in lacking and "train" not in lacking


def test_image_protocol_is_stratified_and_leaky():
    table = splits.assign_split(IMAGES, Split(protocol="image", allow_leaks=True))
    shares = (table["label"] == "benign").groupby(table["part"]).mean()
    assert (shares - 0.3136).abs().max() < 0.003
    assert splits.split_warnings(table) == [
        "82 slides of fold 0 are both in test and in train or validation: 100.0% of the test images"
    ]


def test_warnings_name_classes_and_shared_cases():
    messages = splits.split_warnings(splits.assign_split(IMAGES, Split(protocol="spanhol")), "subtype")
    assert messages[-1].startswith("8 case numbers of fold 0 are both in test") and "39.4%" in messages[-1]
    messages = splits.split_warnings(splits.assign_split(IMAGES, Split(fold=4)), "subtype")
    assert "test of fold 4 has no image of A, LC" in messages


# Refusals


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"fold": 5}, "split.fold is 5, but case has 5"),
        ({"protocol": "kaiko_eva", "fold": 1}, "kaiko_eva has 1 fold"),
        ({"protocol": "image"}, "set --split.allow_leaks"),
        ({"protocol": "spanhl"}, "did you mean 'spanhol'"),
        ({"protocol": "mine.csv"}, "no protocol and no file"),
    ],
)
def test_invalid_settings_are_refused(split, message):
    with pytest.raises(ConfigError, match=message):
        splits.assign_split(IMAGES, Split(**split))


def test_images_that_cannot_be_split():
    foreign = IMAGES.head(500).assign(slide="SOB_B_A_14-1", case="1")
    with pytest.raises(DataError, match="82 slides only, not SOB_B_A_14-1"):
        splits.assign_split(pd.concat([IMAGES, foreign]), Split(protocol="spanhol"))
    with pytest.raises(DataError, match="1 cases cannot fill 5 folds"):
        splits.assign_split(foreign, Split())
    with pytest.raises(DataError, match=r"none of .* is in kaiko_eva; expected .* 40X"):
        splits.select_images(IMAGES.query("magnification == 200"), Split(protocol="kaiko_eva"))
    one_case = IMAGES.loc[IMAGES["case"] == "22549"]
    with pytest.raises(DataError, match=r"no test image|no train image"):
        splits.assign_split(one_case, Split())


# Duplicates


def test_duplicates_by_policy():
    images = pd.DataFrame({"file": ["c", "a", "b", "d"], "pixel_sha256": ["1", "1", "2", "3"]})
    kept, dropped = splits.drop_duplicates(images, "auto", "binary")
    assert (kept["file"].tolist(), dropped["file"].tolist()) == (["a", "b", "d"], ["c"])
    kept, dropped = splits.drop_duplicates(images, "auto", "subtype")
    assert (kept["file"].tolist(), dropped["file"].tolist()) == (["b", "d"], ["c", "a"])
    kept, dropped = splits.drop_duplicates(images, "keep", "subtype")
    assert (len(kept), len(dropped)) == (4, 0)


# Anyone's split


def written(path, table: pd.DataFrame) -> str:
    table.to_csv(path, index=False)
    return str(path)


def kaggle_table() -> pd.DataFrame:
    folds = [splits.assign_test(IMAGES, Split(protocol="spanhol", fold=fold)) for fold in range(5)]
    table = pd.concat(folds, ignore_index=True)
    table = table.assign(fold=table["fold"] + 1, filename="BreaKHis_v1/" + table["file"])
    return table.rename(columns={"magnification": "mag", "part": "grp"})[["fold", "mag", "grp", "filename"]]


def test_a_csv_of_slides(tmp_path):
    table = protocols.read_protocol("spanhol")[0]
    mine = Split(protocol=written(tmp_path / "mine.csv", table.assign(fold=table["fold"] + 1)), fold=2)
    assert splits.count_folds(mine) == 5
    assert splits.assign_split(IMAGES, mine).equals(splits.assign_split(IMAGES, Split(protocol="spanhol", fold=2)))


@pytest.mark.parametrize("folder", ["elsewhere/", "C:\\My data\\40X\\", "\\\\server\\share\\"])
def test_a_csv_of_files_in_any_folder_keeps_its_own_validation(tmp_path, folder):
    few = splits.assign_split(IMAGES.query("magnification == 40"), Split())
    table = few[["file", "part"]].assign(file=folder + few["file"].str.rpartition("/")[2])
    table["part"] = table["part"].replace({"train": "Training", "validation": "val"})
    mine = Split(protocol=written(tmp_path / "mine.csv", table))
    with pytest.warns(UserWarning, match="leaves out files in fold 0: 5,914"):
        images = splits.select_images(IMAGES, mine)
    assert splits.assign_split(images, mine)["part"].tolist() == few["part"].tolist()


def test_kaggles_folds(tmp_path):
    split = Split(protocol=written(tmp_path / "Folds.csv", kaggle_table()), fold=1)
    found = splits.assign_test(IMAGES, split)["part"].tolist()
    assert found == splits.assign_test(IMAGES, Split(protocol="spanhol", fold=1))["part"].tolist()


@pytest.mark.parametrize("call", ["fold{}", "Fold {:02}", "fold_{}", "{}.0", "{:02}", "{}", "cv-{}/10"])
def test_folds_are_counted_by_their_number(tmp_path, call):
    slides = protocols.slides()["slide"].tolist()
    rows = [(slides[n], call.format(n), part) for n in (10, 2, 1, 9, 4) for part in ("test",)]  # gaps, out of order
    rows += [(slides[0], fold, "train") for _, fold, _ in rows]
    path = written(tmp_path / "mine.csv", pd.DataFrame(rows, columns=["slide", "fold", "part"]))
    table, messages = protocols.read_protocol(path)
    tested = table[table["part"] == "test"].sort_values("fold")["slide"].tolist()
    assert tested == [slides[n] for n in (1, 2, 4, 9, 10)]
    assert "here they are 0, 1, 2, 3, 4" in messages[0]


def test_one_fold_written_in_several_ways_is_one(tmp_path):
    rows = [
        ("SOB_B_A_14-22549AB", "1", "train"),
        ("SOB_M_DC_14-2980", "01", "test"),
        ("SOB_B_F_14-9133", "1.0", "test"),
    ]
    path = written(tmp_path / "mine.csv", pd.DataFrame(rows, columns=["slide", "fold", "part"]))
    assert splits.count_folds(Split(protocol=path)) == 1


@pytest.mark.parametrize("mag", ["{}X", "{}.0", "{}x"])
def test_kaggles_folds_as_spreadsheets_save_them(tmp_path, mag):
    table = kaggle_table().query("fold != 1")
    table = table.assign(mag=table["mag"].map(mag.format), fold=table["fold"].map("{}.0".format))
    split = Split(protocol=written(tmp_path / "Folds.csv", table), fold=0)
    with pytest.warns(UserWarning, match="calls its folds 2, 3, 4, 5; here they are 0, 1, 2, 3"):
        splits.select_images(IMAGES, split)
    found = splits.assign_test(IMAGES, split)["part"].tolist()
    assert found == splits.assign_test(IMAGES, Split(protocol="spanhol", fold=1))["part"].tolist()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_slide_lists_cut_from_file_names_and_saved_by_an_editor(tmp_path, encoding):
    table = splits.assign_test(IMAGES, Split())
    for part in ("train", "test"):
        slides = table.loc[table["part"] == part, "slide"].unique()
        text = "\r\n".join(slide.replace("_14-", "-14-").replace("_15-", "-15-") for slide in slides)
        (tmp_path / f"{part.title()}.TXT").write_bytes(text.encode(encoding))
    found = splits.assign_test(IMAGES, Split(protocol=str(tmp_path)))
    assert found["part"].tolist() == table["part"].tolist()


@pytest.mark.parametrize("folder", ["/data/C#/", "#1/", "C:\\a # b\\"])
def test_a_hash_in_a_path_is_no_comment(tmp_path, folder):
    table = splits.assign_test(IMAGES, Split())
    path = tmp_path / "mine.csv"
    written(path, table[["file", "part"]].assign(file=folder + table["file"].str.rpartition("/")[2]))
    path.write_text("# made by hand\n" + path.read_text())
    assert splits.assign_test(IMAGES, Split(protocol=str(path)))["part"].tolist() == table["part"].tolist()


def test_lists_of_names(tmp_path):
    table = splits.assign_test(IMAGES, Split())
    stems = table["file"].str.rpartition("/")[2]
    lists = {part: stems[table["part"] == part].tolist() for part in ("train", "test")}
    for part, lines in lists.items():
        (tmp_path / f"{part}.txt").write_text("\n".join(lines) + "\n")
    columns = pd.DataFrame({part: pd.Series(lines) for part, lines in lists.items()})
    for protocol in (str(tmp_path), written(tmp_path / "columns.csv", columns)):
        found = splits.assign_test(IMAGES, Split(protocol=protocol))
        assert found["part"].tolist() == table["part"].tolist()


def test_unknown_and_repeated_names_are_reported(tmp_path):
    rows = [("SOB_B_A_14-22549AB", "train"), ("SOB_M_DC_14-2980", "test"), ("SOB_B_A_14-1", "train")]
    table = pd.DataFrame(rows, columns=["slide", "part"])
    unknown = Split(protocol=written(tmp_path / "unknown.csv", table))
    with pytest.raises(DataError, match=r"1 slides that BreakHis does not have:\n  SOB_B_A_14-1"):
        splits.select_images(IMAGES, unknown)
    twice = pd.concat([table.head(2), table.head(1).assign(part="test")])
    with pytest.raises(DataError, match="1 names are in two parts"):
        splits.count_folds(Split(protocol=written(tmp_path / "twice.csv", twice)))
    some = Split(protocol=written(tmp_path / "some.csv", table.head(2)))
    with pytest.warns(UserWarning, match="names slides that are not among the images: 1, such as SOB_M_DC"):
        splits.select_images(IMAGES.query("slide == 'SOB_B_A_14-22549AB'"), some)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "has the columns a, b; expected file or slide, part"),
        ("slide,part\nSOB_B_A_14-22549AB,left\n", "has the parts left; expected train"),
        ("slide,part\nSOB_B_A_14-22549AB,\n", "has empty cells"),
        ("slide,part\n", "has no rows"),
        ("", "cannot be read as CSV"),
    ],
)
def test_invalid_tables_are_refused(tmp_path, content, message):
    (tmp_path / "mine.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        splits.assign_split(IMAGES, Split(protocol=str(tmp_path / "mine.csv")))


def test_validation_stands_in_for_a_missing_test(tmp_path):
    table = protocols.read_protocol("kaiko_eva")[0].replace("test", "val")[["slide", "part"]]
    with pytest.warns(UserWarning, match="its validation is used as the test"):
        images = splits.select_images(IMAGES, Split(protocol=written(tmp_path / "mine.csv", table)))
    found = splits.assign_test(images, Split(protocol=str(tmp_path / "mine.csv")))
    assert set(found["part"]) == {"train", "test"}


def test_folds_do_not_depend_on_how_a_processor_rounds(monkeypatch):
    """Between equal costs the last bit of a sum once decided, so that machines trained on different folds."""
    filenames = tree.list_filenames(2, tree.SLIDES)
    images = pd.DataFrame([{"file": name, **names.parse_image_name(name)._asdict()} for name in filenames])
    folds = balanced_folds.allocate_groups(images, "case", [0.2] * 5, (0, 0))
    assert folds.tolist() == [0, 4, 0, 2, 3, 1, 3, 0, 4, 2, 1, 2, 3, 4, 0, 3, 2, 1]
    exact = balanced_folds.Problem.cost
    rng = np.random.default_rng(0)

    def rounded_otherwise(problem, sums, side):
        cost = exact(problem, sums, side)
        return cost * (1 + rng.choice([-4e-16, 0, 4e-16], cost.shape))

    monkeypatch.setattr(balanced_folds.Problem, "cost", rounded_otherwise)
    again = balanced_folds.allocate_groups(images, "case", [0.2] * 5, (0, 0))
    assert again.tolist() == folds.tolist()
