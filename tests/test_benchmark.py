"""The benchmark measures what it says, in small; its page says what the JSON says."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from breakhis_cls import config, names
from breakhis_cls.errors import DataError

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import benchmark
import benchmark_page as page
import benchmark_parts as parts

TINY = benchmark.Sizes(
    rounds=1, slides=2, indexed=40, epoch=40, extracted=32, protocol=64, folds=1, stock=32, grown=(16, 16),
    remembered=100, image=config.Image(height_px=32, width_px=48),
)  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:.*of BreakHis's:UserWarning")  # parts of the set are meant


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """All that a run measures, as JSON gives it back."""
    scratch = tmp_path_factory.mktemp("benchmark")
    return json.loads(json.dumps(benchmark.measure(benchmark.Benchmark(quick=True), TINY, scratch)))


def test_every_claim_is_a_ratio_of_what_stands_beside_it(found):
    assert set(page.CLAIMS) <= set(found)
    index, epoch = found["index_vs_decode"], found["epoch_vs_stock_keras"]
    # A median of ratios is not the ratio of medians, so that the epoch's two rounds agree but roughly.
    extraction, protocol = found["extraction_vs_forward"], found["protocol_vs_stock_keras"]
    assert index["ratio"] == pytest.approx(index["index_s"] / index["decode_s"])
    assert epoch["ratio"] == pytest.approx(epoch["store_images_per_s"] / epoch["stock_images_per_s"], rel=0.5)
    assert extraction["ratio"] == pytest.approx(extraction["images_per_s"] / extraction["bare_images_per_s"])
    assert protocol["ratio"] == pytest.approx(protocol["stock_s_extrapolated"] / protocol["cold_s"])
    passes = 64 * (30 * 0.8 + 0.2)  # one fold: train and validation in each of 30 epochs, test once
    assert protocol["stock_s_extrapolated"] == pytest.approx(passes * protocol["stock_ms_per_image"] / 1_000)
    assert protocol["warm_s"] < protocol["cold_s"] and index["again_s"] < index["index_s"]


def test_growth_memory_and_pipeline_are_measured(found):
    assert set(found["growth"]) == {"index", "store", "epoch", "extraction"}
    assert all([*times] == ["16", "32", "64", "128"] for times in found["growth"].values())
    rates = found["pipeline"]["core_images_per_s"]
    assert min(rates.values()) > 0 and rates["memory_copy"] > rates["all_augmentations"]
    assert not found["memory"] or 0 <= found["memory"]["epoch_gb"] < 1


def test_table_figure_and_page_come_from_the_json(found, tmp_path, capsys):
    page.write(found, tmp_path / "b.json")
    assert {path.name for path in tmp_path.iterdir()} == {"b.json", "b.md", "b.png", "b.svg"}
    page.show(found)
    assert "1.3" in capsys.readouterr().out
    docs = tmp_path / "performance.md"
    docs.write_text("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n")
    for _ in range(2):
        page.main(["--json", str(tmp_path / "b.json"), "--docs", str(docs)])
    assert docs.read_text() == f"before\n<!-- benchmark -->\n{page.markdown(found)}<!-- /benchmark -->\nafter\n"
    docs.write_text("no marks")
    with pytest.raises(DataError, match="holds no '<!-- benchmark -->'"):
        page.fill(docs, found)


def test_a_limit_has_a_good_side(found):
    assert not page.CLAIMS["index_vs_decode"].met(1.31) and page.CLAIMS["index_vs_decode"].met(1.3)
    assert page.CLAIMS["extraction_vs_forward"].met(0.9) and not page.CLAIMS["protocol_vs_stock_keras"].met(49.9)
    failed = found | {"index_vs_decode": found["index_vs_decode"] | {"ratio": 9.0}}
    (row,) = [line for line in page.markdown(failed).splitlines() if line.startswith("| index with hashes of")]
    assert "| 9 | <= 1.3 | NO |" in row


def test_turns_are_taken():
    order = []
    spent = parts.in_turns({"a": lambda at: order.append(("a", at)) or 1.0, "b": lambda at: order.append(at) or 2.0}, 2)
    assert order == [("a", 0), 0, ("a", 1), 1]
    assert spent["a"].tolist() == [1.0, 1.0] and spent["b"].tolist() == [2.0, 2.0]


def test_names_are_official_and_more_are_made_up():
    assert len(set(parts.official(names.N_IMAGES))) == names.N_IMAGES
    assert len(set(parts.official(100))) == 100
    many = parts.official(2 * names.N_IMAGES + 5)
    assert len(set(many)) == len(many)
    assert all(names.official_path(Path(file).name) == file for file in many[-5:])
    assert {names.parse_image_name(Path(file).name).magnification for file in parts.official(50, (200,))} == {200}


def test_all_augmentations_means_all():
    augment = parts.all_augmentations().model_dump()
    assert {name for name, value in augment.items() if value == parts.SPREAD} == {
        name for name, field in config.Augment.model_fields.items() if field.annotation is float
    }
    assert augment["flips"] and augment["turns"]


def test_the_clocks_tell_time():
    assert parts.seconds(np.sort, np.zeros(10)) >= 0
    assert math.isclose(parts.seconds(lambda: None, clock=iter([1.0, 3.5]).__next__), 2.5)


def test_a_tree_of_ones_own_is_taken_whole_and_in_part_by_quick(tiny_tree, tmp_path):
    data = config.Data(root=str(tiny_tree), magnifications=(200,))
    for quick, n in ((False, 30), (True, 12)):
        given = benchmark.Benchmark(data=data, quick=quick)
        settings = benchmark._settings(given, TINY._replace(protocol=12), [], tmp_path / str(quick))
        assert len(benchmark.gather(settings).images) == n
