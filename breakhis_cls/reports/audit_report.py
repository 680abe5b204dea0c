"""The page of `breakhis audit`: the leaks of every fold, and which case numbers are on both sides."""

from pathlib import Path

import pandas as pd

from ..data import leakage
from ..files import write_csv, write_json, write_text
from . import plots, plots_sweep, text

READING = (
    "Share of the fold's test images that leak, their number and, in brackets, how many slides, case numbers or seen "
    "images they share. Benign, by case: share of the benign test images whose case number was seen."
)
KIND_WORDS = {
    "slide": "slides", "case": "case numbers", "pixels": "equal pixels", "near_duplicate": "near duplicates",
}  # fmt: skip
LEAKS = {   # in the order of the headline; who shares a slide shares its case
    "case": "are of case numbers that the model has seen", "pixels": "have the pixels of an image that it has seen",
    "near_duplicate": "are near duplicates of images that it has seen",
}  # fmt: skip


def write_audit(audit: leakage.Audit, out: Path) -> pd.DataFrame:
    """Write audit.json, leaks.csv, table.md, table.tex and index.html; returns the table of folds as text."""
    content = audit.to_json()
    write_json(out / "audit.json", content)
    write_csv(out / "leaks.csv", audit.leaks)

    # --- a row for each fold: share of its test images that leak, below it how many, and what they share ---
    rows = []
    for entry in audit.folds:
        cells = {
            words: f"{text.percent(leak['test_share'], 1)}: {leak['test_images']:,} ({len(leak['keys'])})"
            if (leak := entry["leaks"][kind])["keys"] else "0"
            for kind, words in KIND_WORDS.items() if audit.with_images or kind in ("slide", "case")
        }  # fmt: skip
        benign = text.percent(entry["leaks"]["case"]["benign_test_share"], 1)
        about = {"Fold": str(entry["fold"]), "Test images": f"{entry['n_test']:,}"}
        rows.append(about | cells | {"Benign, by case": benign, "Seen": f"{entry['n_train']:,}"})
    table = pd.DataFrame(rows)
    title = f"{headline(audit).removesuffix('.')}: protocol {Path(audit.protocol).stem}"
    text.write_tables(out, "table", table, f"{title}. {READING}")

    content |= {
        "headline": title, "reading": READING, "columns": list(table), "rows": table.to_numpy().tolist(), "banners": [],
        "shared_cases": [(*names, row.tolist()) for names, row in shared_cases(audit).iterrows()],
        "near_bits": leakage.NEAR_BITS, "n_bits": leakage.N_BITS,
    }  # fmt: skip
    write_text(out / "index.html", text.render("audit.html", content))
    return table


def write_gallery(out: Path) -> str:
    """Write gallery.csv, .md, .tex and the figure `gallery`: what the protocols and random splits by folder share.
    Returns the table and a sentence on the random splits."""
    folds, draws = leakage.audit_gallery()
    write_csv(out / "gallery.csv", folds)
    rows = []
    for protocol, inside in folds.groupby("protocol", sort=False):
        shared = ", ".join(inside["shared_cases"].astype(str))
        spans = [
            " to ".join(dict.fromkeys(f"{100 * share:.0f}" for share in (inside[column].min(), inside[column].max())))
            for column in ("test_share", "benign_share")
        ]
        rows.append([protocol, str(len(inside)), shared, *(f"{span} %" for span in spans)])
    header = ["protocol", "folds", "case numbers on both sides", "of the test images", "of the benign ones"]
    clean, whole = (100 * is_so.mean() for is_so in (draws["shared_cases"] == 0, draws["benign_share"] == 1))
    median = 100 * draws.median()
    sentence = (
        f"Of {len(draws):,} random splits by folder (70/15/15, stratified by label) {clean:.1f} % share no case "
        f"number; in the median one {median['test_share']:.0f} % of the test images and {median['benign_share']:.0f} % "
        f"of the benign ones are of case numbers that were seen; in {whole:.0f} % every benign test image is."
    )
    plots.save(plots_sweep.leak_gallery(folds, draws), out, "gallery")
    return text.write_tables(out, "gallery", pd.DataFrame(rows, columns=pd.Index(header)), sentence)


def headline(audit: leakage.Audit) -> str:
    """The result in one sentence."""
    spans = {}
    for kind, what in LEAKS.items():
        shares = [entry["leaks"][kind]["test_share"] or 0.0 for entry in audit.folds]  # None where a fold tests nothing
        if max(shares):
            spans[what] = " to ".join(f"{100 * share:.1f} %" for share in sorted({min(shares), max(shares)}))
    n_leaky = sum(any(found["keys"] for found in entry["leaks"].values()) for entry in audit.folds)
    found = "; ".join(f"{span} of the test images {what}" for what, span in spans.items())
    pixels = ", equal pixels or near duplicate" if audit.with_images else ""
    n_folds = text.count(len(audit.folds), "fold")
    clean = f"Clean: no slide or case number{pixels} on both sides in {n_folds}."
    return f"Leaks in {n_leaky} of {n_folds}: {found}." if n_leaky else clean


def shared_cases(audit: leakage.Audit) -> pd.DataFrame:
    """Test images whose case number the model has seen: (case, label) by fold, the most frequent case first."""
    rows = audit.leaks[audit.leaks["kind"] == "case"].rename(columns={"key": "case"})
    rows = rows.merge(audit.split.drop_duplicates("case")[["case", "label"]], on="case")
    counts = rows.groupby(["case", "label", "fold"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=[entry["fold"] for entry in audit.folds], fill_value=0)
    return counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
