"""The page of `breakhis audit`: the leaks of every fold, and which case numbers are on both sides."""

from pathlib import Path

import pandas as pd

from ..data import leakage
from ..files import write_csv, write_json, write_text
from . import text

READING = (
    "Share of the fold's test images that leak, their number and, in brackets, how many slides, case numbers or seen "
    "images they share. Benign, by case: share of the benign test images whose case number was seen."
)
KINDS = {
    "slide": "slides", "case": "case numbers", "pixels": "equal pixels", "near_duplicate": "near duplicates",
}  # fmt: skip


def write_audit(audit: leakage.Audit, out: Path) -> pd.DataFrame:
    """Write audit.json, leaks.csv, table.md, table.tex and index.html; returns the table of folds as text."""
    content = {
        "protocol": audit.protocol, "with_images": audit.with_images, "n_images": int(audit.split["file"].nunique()),
        "told": audit.messages, "folds": audit.folds,
    }  # fmt: skip
    write_json(out / "audit.json", content)
    write_csv(out / "leaks.csv", audit.leaks)

    # --- a row for each fold: share of its test images that leak, how many, and how many slides, cases or images ---
    rows = []
    for entry in audit.folds:
        row = {"Fold": str(entry["fold"]), "Test images": f"{entry['n_test']:,}"}
        for kind, column in KINDS.items():
            leak = entry["leaks"][kind]
            share = f"{text.percent(leak['test_share'], 1)}: {leak['test_images'] or 0:,} ({len(leak['keys'])})"
            if audit.with_images or kind in ("slide", "case"):
                row[column] = share if leak["keys"] else "0"
        benign = text.percent(entry["leaks"]["case"]["benign_test_share"], 1)
        rows.append(row | {"Benign, by case": benign, "Seen": f"{entry['n_train']:,}"})
    table = pd.DataFrame(rows)
    title = f"{headline(audit).removesuffix('.')}: protocol {Path(audit.protocol).stem}"
    text.write_tables(out, "table", table, f"{title}. {READING}")

    content |= {
        "headline": title, "reading": READING, "table": table, "banners": [], "shared_cases": shared_cases(audit),
        "near_bits": leakage.NEAR_BITS, "n_bits": leakage.N_BITS,
    }  # fmt: skip
    write_text(out / "index.html", text.render("audit.html", content))
    return table


def headline(audit: leakage.Audit) -> str:
    """The result in one sentence; who shares a slide shares its case."""
    n_leaky, spans = sum(any(leak["keys"] for leak in entry["leaks"].values()) for entry in audit.folds), {}
    for kind in KINDS:
        shares = [entry["leaks"][kind]["test_share"] or 0.0 for entry in audit.folds]  # None where a fold tests nothing
        if max(shares):
            spans[kind] = " to ".join(f"{100 * share:.1f} %" for share in sorted({min(shares), max(shares)}))
    content = {"n_leaky": n_leaky, "n_folds": len(audit.folds), "spans": spans, "with_images": audit.with_images}
    return text.fill_sentences("audit", content)[0]


def shared_cases(audit: leakage.Audit) -> pd.DataFrame:
    """Test images whose case number the model has seen: (case, label) by fold, the most frequent case first."""
    rows = audit.leaks[audit.leaks["kind"] == "case"].rename(columns={"key": "case"})
    rows = rows.merge(audit.split.drop_duplicates("case")[["case", "label"]], on="case")
    counts = rows.groupby(["case", "label", "fold"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=[entry["fold"] for entry in audit.folds], fill_value=0)
    return counts.loc[counts.sum(axis=1).sort_values(ascending=False, kind="stable").index]
