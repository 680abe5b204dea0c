"""What reports say in words, and the forms of a table: numbers as text, sentences, templates, Markdown, LaTeX."""

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from .. import __version__, names
from ..config import dump_config
from ..data import protocols
from ..evaluation import bootstrap, predictions
from ..evaluation.experiments import Experiment, split_contradictions
from ..evaluation.metrics import LEADING, SWAPPED, SWAPPED_AUC, metric_words
from ..files import write_text

HERE = Path(__file__).parent
# What each means for a score, from the strictest to the leaky one, which is the order of a table's rows.
PROTOCOLS: dict[str, str] = pd.read_csv(HERE / "protocols.csv", index_col="protocol")["meaning"].to_dict()
# Where a protocol or the name of a set of images begins so: kind of banner, and what no reader may miss.
BANNERS = pd.read_csv(HERE / "banners.csv").to_numpy().tolist()
LATEX = str.maketrans({
    **{letter: f"\\{letter}" for letter in "%&_#${}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "–": "--", "\u00a0": "~", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "…": r"\ldots{}",
})  # fmt: skip

# --- numbers as text ---


def number(value: float | None, digits: int = 3) -> str:
    """0.9227 -> `0.923`; undefined -> a dash."""
    return "–" if pd.isna(value) else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """0.842 -> `84 %`, with a space that does not break; undefined -> a dash."""
    return "–" if share is None else f"{100 * share:.{digits}f}\u00a0%"


def p_value(p: float) -> str:
    """0.0312 -> `0.031`; below a thousandth only that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def interval(result: dict[str, Any], low: str = "low", high: str = "high", digits: int = 3) -> str:
    """`0.877 to 0.961`, or `too few cases` where that is why there is no interval, or an empty string."""
    if pd.isna(result.get(low)) or pd.isna(result.get(high)):
        reason = result.get("no_interval")
        return reason.partition(":")[0] if isinstance(reason, str) and low == "low" else ""
    return f"{result[low]:.{digits}f} to {result[high]:.{digits}f}"


def estimate(result: dict[str, Any], digits: int = 3) -> str:
    """`0.923 (0.877 to 0.961)`, `0.923 (too few cases)`, the value alone, or a dash."""
    span = interval(result, digits=digits)
    return number(result["value"], digits) + (f" ({span})" if span else "")


def count(n: int, unit: str) -> str:
    """`1 case`, `1,234 cases`."""
    return f"{n:,} {unit}{'' if n == 1 else 's'}"


def sizes(counts: dict[str, Any]) -> str:
    """`628 images, 36 slides, 32 cases`, of a metric's result."""
    return ", ".join(count(counts[f"n_{unit}s"], unit) for unit in ("image", "slide", "case"))


def subtype(code: str) -> str:
    """`DC` -> `DC, ductal carcinoma`."""
    return f"{code}, {names.SUBTYPES[code][0].replace('_', ' ')}" if code in names.SUBTYPES else code


def headline_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The main metrics of a metrics.json as text: value, and 95 % interval over cases or why there is none."""
    words, pooled, rows = metric_words(binary="by_class" not in metrics), metrics["pooled"], {}
    for name in LEADING:
        if name == "roc_auc_within_folds" and pooled[name]["value"] == pooled["roc_auc"]["value"]:
            continue  # one fold
        why = pooled[name].get("undefined") or pooled[name].get("no_interval")
        rows[words[name][0]] = {"Value": number(pooled[name]["value"]), "95 % interval": why or interval(pooled[name])}
    return pd.DataFrame(rows).T


def summary(metrics: dict[str, Any], title: str) -> str:
    """What a command prints of a metrics.json: some ten lines of main metrics, intervals and confusion matrix."""
    pooled, table = metrics["pooled"], headline_table(metrics)
    auc, spans = pooled["roc_auc"], table["95 % interval"]
    confusions = pd.DataFrame(metrics["confusion_matrix"]).T.rename_axis(index="True label", columns="Predicted label")
    return render("summary.txt", {
        "title": title, "tested": sizes(auc), "warnings": metrics.get("contradictions", []),
        "rows": list(table.itertuples(name=None)), "width": max(map(len, table.index)),
        "common": spans.iloc[0] if spans.nunique() == 1 else "",  # no metric has one: say it once
        "confusions": [line.rstrip() for line in confusions.to_string().splitlines()],
        "hint": SWAPPED if (auc["value"] or 1) < SWAPPED_AUC and auc["n_cases"] >= 10 else "",
    }).rstrip()  # fmt: skip


# --- sentences about an experiment ---


def headline(experiment: Experiment, metrics: dict[str, Any]) -> str:
    """`ROC AUC 0.85 (0.70 to 0.95) on 23 test cases: demo, fold 0`."""
    auc, tested = metrics["pooled"]["roc_auc"], sorted(experiment.test["fold"].unique())
    name = experiment.settings.name if experiment.settings else experiment.name
    where = f"fold {tested[0]}" if len(tested) == 1 else f"{len(tested)} folds pooled"
    what = "ROC AUC" if predictions.is_binary(experiment.table) else "Macro ROC AUC"
    value = "undefined" if auc["value"] is None else estimate(auc, 2)
    return f"{what} {value} on {count(auc['n_cases'], 'test case')}: {name}, {where}"


def finding(experiment: Experiment, metrics: dict[str, Any]) -> str:
    """The result in one sentence, with what it was measured on and by which split."""
    binary = predictions.is_binary(experiment.table)
    about = {column: experiment.meta(column) for column in ("data", "protocol", "model")}
    swapped = {"below": SWAPPED_AUC, "hint": SWAPPED}
    [line] = fill_sentences("finding", about | {"pooled": metrics["pooled"], "binary": binary, "swapped": swapped})
    return line


def calibration_verdict(analysis: dict[str, Any], ece: float | None) -> str:
    """Whether the intervals of slope and calibration in the large hold the perfect values, and ECE beside its noise."""
    return " ".join(fill_sentences("calibration", {"ece": ece, "floor": analysis["noise_floor"], **analysis["line"]}))


def protocol(name: str) -> str:
    return f"{name}: {PROTOCOLS.get(name, 'a custom split; `breakhis audit` lists what it leaks')}"


def split_claim(experiment: Experiment) -> str:
    """What the experiment's protocol means for the score, unless its rows say otherwise."""
    claim = experiment.meta("protocol")
    return f"{claim}, which is not true of these rows" if split_contradictions(experiment) else protocol(claim)


def banners(protocol: str, data: str) -> list[tuple[str, str]]:
    """(kind, sentence) of what no reader may miss: leaky protocol, synthetic tissue, sample."""
    found = {"protocol": protocol, "data": data}
    return [(kind, sentence) for column, begins, kind, sentence in BANNERS if found[column].startswith(begins)]


def contradictions(experiment: Experiment) -> list[tuple[str, str]]:
    return [("leaky", f"Contradiction: {sentence}") for sentence in split_contradictions(experiment)]


def experiment_banners(experiment: Experiment) -> list[tuple[str, str]]:
    """Of `banners`, and first what the rows say against the split that they claim."""
    return contradictions(experiment) + banners(experiment.meta("protocol"), experiment.meta("data"))


def folds(experiment: Experiment) -> str:
    """`fold 0`; the published folds, which count from 1, in both ways."""
    tested = sorted(experiment.test["fold"].unique())
    counted = f"fold{'s' if len(tested) > 1 else ''} {', '.join(map(str, tested))} (counted from 0)"
    published = f"; as published: {', '.join(str(fold + 1) for fold in tested)}"
    return counted + (published if experiment.meta("protocol") == "spanhol" else "")


def half_done_seeds(experiment: Experiment) -> str:
    """Which seeds lack folds that other seeds have, or an empty string."""
    tested = experiment.test.groupby("seed")["fold"].unique().map(set)
    missing = {seed: sorted(set.union(*tested) - done) for seed, done in tested.items()}
    lacking = "; ".join(f"seed {seed} lacks fold {', '.join(map(str, one))}" for seed, one in missing.items() if one)
    mixed = "The mean is over seeds that were tested on different images."
    return f"{experiment.name}: {lacking}. {mixed}" if lacking else ""


def weights(experiment: Experiment) -> str:
    """Which weights the backbone began with, and their hash where the run recorded it."""
    recorded, settings = (experiment.sources[0].environment or {}).get("weights", {}), experiment.settings
    name = recorded.get("name") or (settings.model.weights if settings else "not recorded")
    return f"{name} (SHA-256 {recorded['sha256'][:12]}…)" if recorded.get("sha256") else str(name)


def caveats(experiment: Experiment) -> list[str]:
    """What limits the result, most important first."""
    test, settings, name = experiment.test, experiment.settings, experiment.meta("protocol")
    classes = "label" if predictions.is_binary(experiment.table) else "subtype"
    majority, share = next(test[classes].value_counts(normalize=True).items())
    n_folds = 5 if name == "spanhol" else settings.split.n_folds if settings else 0
    return fill_sentences("caveats", {
        "protocol": name, "half_done": half_done_seeds(experiment), "majority": majority, "share": share,
        # Ten cases are where the bootstrap's coverage stops being close to 95 % (docs/statistics.md).
        "few": [f"{kind} {n}" for kind, n in test.groupby(classes)["case"].nunique().items() if n < 10],
        # A leaderboard's is one fixed split; a bare table says nothing about the folds that it lacks.
        "n_tested": test["fold"].nunique(), "n_folds": 0 if name in protocols.LEADERBOARDS else n_folds,
        "repeats": test.duplicated(["file"]).any(),
        "n_dropped": len((experiment.sources[0].environment or {}).get("data", {}).get("dropped_duplicates", [])),
    })  # fmt: skip


def fill_sentences(name: str, content: dict[str, Any]) -> list[str]:
    lines = render(f"{name}.txt", content).splitlines()
    return [re.sub(" +", " ", line).strip() for line in lines if line.strip()]


# --- templates and tables ---


def render(template: str, content: dict[str, Any]) -> str:
    """A filled template of this room; a page gets its contents."""
    page = environment().get_template(template).render(content)
    sections = re.findall(r'<h2 id="(.+?)">(.+?)</h2>', page)
    return page.replace("<!--contents-->", " ".join(f'<a href="#{name}">{title}</a>' for name, title in sections))


@functools.cache  # a template compiles for as long as a page renders
def environment() -> jinja2.Environment:
    """Of the templates; every form of a number is a filter under its own name: {{ result.value|number }}."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), trim_blocks=True, lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(["html"]), undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    forms = (number, percent, p_value, interval, estimate, count, subtype, split_claim, folds, weights, dump_config)
    found.filters |= {form.__name__: form for form in forms}
    worst = " and ".join(f"{percent(share)} with {n} cases" for n, share in bootstrap.WORST_COVERAGE.items())
    coverage = f"In simulations, the worst of these 95 % intervals hold the true value in {worst}."
    found.globals |= {"version": __version__, "coverage": coverage}
    return found


def write_tables(folder: Path, name: str, table: pd.DataFrame, caption: str, n_text: int = 1, columns: str = "") -> str:
    """Write a table of text as `<name>.md` and `<name>.tex` (booktabs); returns the Markdown. The first `n_text`
    columns are set flush left, in LaTeX as `columns` says, the others flush right."""
    n_numbers = len(table.columns) - n_text
    lines = [list(table.columns), ["---"] * n_text + ["---:"] * n_numbers, *table.to_numpy().tolist()]
    markdown = "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + f"\n\n{caption}\n"
    write_text(folder / f"{name}.md", markdown)

    styled = table.style.hide(axis="index").format(escape_latex).format_index(escape_latex, axis="columns")
    latex = styled.to_latex(
        hrules=True, caption=escape_latex(caption), column_format=(columns or "l" * n_text) + "r" * n_numbers,
        position_float="centering", environment="table*" if len(table.columns) > 5 else None,
    )  # fmt: skip
    write_text(folder / f"{name}.tex", f"% \\usepackage{{booktabs}}\n{latex}")
    return markdown


def escape_latex(text: str) -> str:
    return text.translate(LATEX)
