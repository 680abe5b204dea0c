"""The table of a paper, from any number of runs, beside published results: CSV, Markdown, LaTeX, figure and page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..evaluation import experiments
from ..evaluation.metrics import metric_words
from ..files import atomic_path, write_text
from . import paper_rows, papers, text
from .paper_rows import METRICS, Row
from .published import Published

READING = (
    "Ours: mean ± standard deviation (n − 1) over folds, seeds averaged within a fold first, as the literature gives "
    "it; below it the value of all folds pooled (where they test an image again, the mean over them), with its 95 % "
    "interval by bootstrap over cases."
)
PUBLISHED = " Published: mean ± standard deviation over folds, where the source gives one."
LEAKY = (
    "Rows of protocol image are leaky: images of one slide are in training and in test, so that these scores do not "
    "say how well new patients would be classified."
)


def write_sweep_table(run_folders: list[Path], out: Path, title: str) -> Path:
    """Write table.csv, table.md, table.tex, the figure `paper`, the leak penalty where the runs show one, and
    index.html, whose path is returned.

    `run_folders` are runs, or tables of predictions; folds and seeds of one experiment make one row for each
    magnification, and one for all where one model serves several. Raises DataError on what cannot be scored.
    """
    from . import sweep_report

    found = experiments.group_experiments([experiments.read_source(path) for path in run_folders])
    rows = paper_rows.table_rows(found)
    with atomic_path(out / "table.csv") as temporary:
        paper_rows.long_table(rows).to_csv(temporary, index=False, lineterminator="\n")
    write_text(out / "table.md", markdown(rows, title))
    write_text(out / "table.tex", latex(rows, title))
    return sweep_report.write_sweep_page(rows, found, out, title)


def markdown(rows: list[Row], title: str) -> str:
    """A table for each task, its sources numbered below."""
    parts = [f"# {title}", *(sentence for _, sentence in banners(rows))]
    for task in tasks(rows):
        inside = [row for row in rows if row.task == task]
        head = header(inside)
        parts.append("\n".join([
            f"## {task}\n", _bar(head), _bar(["---"] * 3 + ["---:"] * len(METRICS)),
            *(_bar([f"{first}<br>{second}" if second else first for first, second in zip(*pair, strict=True)])
              for pair in grid(inside, rows)),
        ]))  # fmt: skip
    cited = [f"{at}. {entry}" for at, entry in enumerate(citations(rows), 1)]
    return "\n\n".join([*parts, *notes(rows), "\n".join(cited)]).rstrip() + "\n"


def latex(rows: list[Row], title: str) -> str:
    """The same for LaTeX with booktabs: a `table*` for each task; sources below each."""
    made = ["% \\usepackage{booktabs}"]
    for task in tasks(rows):
        inside = [row for row in rows if row.task == task]
        body, before = [], inside[0].protocol
        for first, second in grid(inside, rows):
            body += [r"\midrule"] if first[0] != before else []
            before = first[0]
            body.append(" & ".join(papers.escaped(cell) for cell in first) + r" \\")
            if any(second):
                small = (
                    rf"{{\scriptsize {papers.escaped(cell.replace(' to ', '–'))}}}" if cell else "" for cell in second
                )
                body.append(" & ".join(small) + r" \\")
        caption = papers.escaped(
            " ".join([f"{title}, {task}.", *(said for _, said in banners(inside)), *notes(inside)])
        )
        cited = [f"[{at}] {papers.escaped(entry)}." for at, entry in enumerate(citations(rows), 1)]
        made += [
            r"\begin{table*}", r"\centering\footnotesize\setlength{\tabcolsep}{4pt}", rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{llp{{4.2cm}}{'r' * len(METRICS)}}}", r"\toprule",
            " & ".join(papers.escaped(cell) for cell in header(inside)) + r" \\", r"\midrule", *body, r"\bottomrule",
            r"\end{tabular}", *([r"\par\smallskip\footnotesize\raggedright " + " ".join(cited)] if cited else []),
            r"\end{table*}",
        ]  # fmt: skip
    return "\n".join(made) + "\n"


def grid(inside: list[Row], rows: list[Row]) -> list[tuple[list[str], list[str]]]:
    """Two lines of cells for each row and each published model: what it is and its means, then sizes and intervals."""
    known = citations(rows)
    lines = []
    for row in inside:
        about = [row.protocol, row.where]
        means = [_mean(row.scores[name]["mean"], row.scores[name]["sd"]) for name in METRICS]
        pooled = [_pooled(row.scores[name]) for name in METRICS]
        lines.append(([*about, f"ours: {row.model}", *means], ["", "", row.sizes, *pooled]))
        for one in row.published:
            number = known.index(citation(one)) + 1
            cells = [_mean(*one.scores[name]) if name in one.scores else "" for name in METRICS]
            lines.append(([*about, f"{one.cited} [{number}]", *cells], [""] * (3 + len(METRICS))))
    return lines


def citation(one: Published) -> str:
    """Paper, note and source."""
    return f"{one.paper} {one.year}: {one.source}" + (f" ({one.note})" if one.note else "")


def citations(rows: list[Row]) -> list[str]:
    """Each once, in the order of the table."""
    return list(dict.fromkeys(citation(one) for row in rows for one in row.published))


def tasks(rows: list[Row]) -> list[str]:
    """In the order of the table."""
    return list(dict.fromkeys(row.task for row in rows))


def banners(rows: list[Row]) -> list[tuple[str, str]]:
    """(kind, sentence) of what no reader may miss: leaks, synthetic tissue, and samples beside published numbers."""
    told = {banner for row in rows for banner in text.banners(row.experiment) if banner[0] == "synthetic"}
    if any(row.protocol == "image" for row in rows):
        told.add(("leaky", LEAKY))
    other = sorted({row.data for row in rows if not row.data.startswith("breakhis")})
    if other:
        beside = ", and must not be compared with the published rows" if any(row.published for row in rows) else ""
        told.add(
            ("sample", f"Measured on {', '.join(other)}, not on the full data set: never a BreakHis result{beside}.")
        )
    return sorted(told)


def notes(rows: list[Row]) -> list[str]:
    """How to read the table, and what its protocols are."""
    protocols = dict.fromkeys(text.protocol(row.experiment) for row in rows)
    return [READING + (PUBLISHED if any(row.published for row in rows) else ""), f"Protocols. {'. '.join(protocols)}."]


def header(inside: list[Row]) -> list[str]:
    """Of the rows of one task."""
    words = metric_words(inside[0].task == "binary")
    return ["Protocol", "Magnification", "Model", *(words[name][0] for name in METRICS)]


def _mean(mean: float | None, sd: float | None) -> str:
    return text.number(mean) + (f" ± {sd:.3f}" if sd is not None and mean is not None else "")


def _pooled(score: dict[str, Any]) -> str:
    interval = text.span(score)
    return text.number(score["value"]) + (f" ({interval})" if interval else "")


def _bar(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
