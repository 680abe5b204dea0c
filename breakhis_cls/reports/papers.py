"""Tables ready for a paper (LaTeX, Markdown) and a model card, filled from the run's own files."""

from __future__ import annotations

from typing import Any

from ..evaluation import predictions
from ..evaluation.experiments import Experiment
from ..evaluation.metrics import metric_words
from . import text

LATEX = {
    "%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", "\u00a0": "~", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "…": r"\ldots{}",
}  # fmt: skip


def markdown(experiment: Experiment, metrics: dict[str, Any]) -> str:
    """Headline metrics by magnification, a row for each metric, and a line that says what they are of."""
    header, rows = _grid(experiment, metrics)
    lines = [_row(header), _row(["---", *["---:"] * (len(header) - 1)]), *(_row(row) for row in rows)]
    return "\n".join([*lines, "", _caption(experiment, metrics), ""])


def latex(experiment: Experiment, metrics: dict[str, Any]) -> str:
    """The same table for LaTeX with the booktabs package."""
    header, rows = _grid(experiment, metrics)
    body = [" & ".join(escaped(cell) for cell in row) + r" \\" for row in rows]
    lines = [
        r"\begin{table}", r"\centering\small", rf"\caption{{{escaped(_caption(experiment, metrics))}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule",
        " & ".join(escaped(cell) for cell in header) + r" \\", r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _grid(experiment: Experiment, metrics: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    strata = {"all": metrics["pooled"]}
    if len(metrics["by_magnification"]) > 1:
        strata |= {f"{key}X": found for key, found in metrics["by_magnification"].items()}
    words = metric_words(predictions.is_binary(experiment.table))
    rows = [[label, *(_cell(found[name]) for found in strata.values())] for name, (label, _) in words.items()]
    return ["Metric", *strata], rows


def _cell(result: dict[str, Any]) -> str:
    interval = text.span(result, digits=2).replace(" to ", "–")
    return text.number(result["value"], 2) + (f" ({interval})" if interval else "")


def _caption(experiment: Experiment, metrics: dict[str, Any]) -> str:
    counts = metrics["pooled"]["image_accuracy"]
    sizes = ", ".join(text.count(counts[f"n_{unit}s"], unit) for unit in ("image", "slide", "case"))
    kind = " ".join(sentence for _, sentence in text.banners(experiment))
    return (
        f"{experiment.meta('model')} on {experiment.meta('data')}, protocol {experiment.meta('protocol')}, "
        f"{text.folds(experiment)}; {sizes}. 95 % intervals by bootstrap over cases. {kind}"
    ).strip()


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """Text as LaTeX prints it, letter for letter."""
    return "".join(LATEX.get(letter, letter) for letter in text)
