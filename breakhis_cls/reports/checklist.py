"""checklist.md: which items of CLAIM 2024 and TRIPOD+AI 2024 a report answers, and which its authors must answer."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

ITEMS = Path(__file__).with_name("checklist.csv")  # guideline, item, topic, and a section of the page or a note
SOURCES = (
    "CLAIM: Tejani et al., Radiology: Artificial Intelligence 6(4), 2024, doi 10.1148/ryai.240300. TRIPOD+AI: Collins "
    "et al., BMJ 385:e078378, 2024. Topics are in our words; the guidelines say what each item asks for."
)


def write_checklist(page: str) -> str:
    """The checklist in Markdown, filled for a report's page (HTML): a link where the page has the section, else
    "not applicable" with the reason, or "missing"."""
    titles = dict(re.findall(r'<h[1-3] id="([\w-]+)"[^>]*>(.*?)</h', page))
    items = pd.read_csv(ITEMS, dtype=str, keep_default_na=False)
    answers = [
        f"[{titles[row.section]}](index.html#{row.section})" if row.section in titles
        else row.note or "missing: this report has no such section"
        for row in items.itertuples()
    ]  # fmt: skip
    lines = ["# Checklist of reporting", "", SOURCES]
    for guideline, rows in items.assign(answer=answers).groupby("guideline", sort=False):
        n_missing = int(rows["answer"].str.startswith("missing").sum())
        lines += ["", f"## {guideline}: {len(rows) - n_missing} of {len(rows)} items answered", ""]
        lines += ["| item | topic | answer |", "|---|---|---|"]
        lines += [f"| {row.item} | {row.topic} | {row.answer} |" for row in rows.itertuples()]
    return "\n".join(lines) + "\n"
