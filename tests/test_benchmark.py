"""The benchmark measures what its claims say, in small; its table and figure come from its JSON."""

import json
import sys
from pathlib import Path

import pytest

from breakhis_cls import config, names

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import benchmark

TINY = benchmark.Sizes(
    rounds=1, slides=2, indexed=40, epoch=40, extracted=32, protocol=64, folds=1, stock=32,
    image=config.Image(height_px=32, width_px=48), seeds=(),
)  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*of BreakHis's:UserWarning")  # a part of the set is meant


def made_up() -> dict:
    """A result as `measure` returns it, with every claim at its limit."""
    numbers = ("images_per_s", "bare_images_per_s", "decoding_share", "cold_s", "stock_s_extrapolated", "warm_s",
               "stock_ms_per_image", "ratio_warm", "n_folds", "store_images_per_s", "stock_images_per_s", "index_s",
               "decode_s", "again_s", "n_images", "data")  # fmt: skip
    environment = {"devices": ["CPU"], "versions": {"tensorflow": "1.0", "keras": "1.0"}}
    about = {"date": "2026-01-01", "seconds": 9, "quick": False, "cores": 2, "environment": environment}
    about["extraction_by_arithmetic"] = {"TensorFlow, oneDNN, float32": 12.34}
    about["commands"] = {"sweep, 4 runs": {"n_runs": 4, "seconds": 9, "cpu_s": 10, "peak_gib": 1.5}}
    claims = {key: dict.fromkeys(numbers, 1) | {"ratio": claim.limit} for key, claim in benchmark.CLAIMS.items()}
    return about | claims


@pytest.mark.slow
def test_every_claim_is_a_ratio_of_the_times_beside_it(tmp_path):
    found = json.loads(json.dumps(benchmark.measure(benchmark.Benchmark(quick=True), TINY, tmp_path)))
    assert set(benchmark.CLAIMS) <= set(found)
    assert all(claim.measured.format(**found[key]) for key, claim in benchmark.CLAIMS.items())
    index, epoch = found["index_vs_decode"], found["epoch_vs_stock_keras"]
    extraction, protocol = found["extraction_vs_forward"], found["protocol_vs_stock_keras"]
    assert index["ratio"] == pytest.approx(index["index_s"] / index["decode_s"])
    assert epoch["ratio"] > 0 and epoch["stock_images_per_s"] > 0
    assert extraction["ratio"] == pytest.approx(extraction["images_per_s"] / extraction["bare_images_per_s"])
    assert protocol["ratio"] == pytest.approx(protocol["stock_s_extrapolated"] / protocol["cold_s"])
    assert len(found["extraction_by_arithmetic"]) >= 3 and min(found["extraction_by_arithmetic"].values()) > 0
    assert all(cost["n_runs"] in (1, 5) and 0.1 < cost["peak_gib"] < 9 for cost in found["commands"].values())
    passes = 64 * (30 * 0.8 + 0.2)  # one fold: train and validation in each of 30 epochs, test once
    assert protocol["stock_s_extrapolated"] == pytest.approx(passes * protocol["stock_ms_per_image"] / 1_000)


def test_table_and_figure_say_which_claims_hold(tmp_path):
    found = made_up()
    found["index_vs_decode"]["ratio"] = 1.31
    benchmark.write_results(found, tmp_path / "b.json")
    assert {path.name for path in tmp_path.iterdir()} == {"b.json", "b.md", "b.png", "b.svg"}
    assert json.loads((tmp_path / "b.json").read_text()) == found
    lines = (tmp_path / "b.md").read_text().splitlines()
    assert any("| 1.31 | <= 1.3 | NO |" in line for line in lines)
    assert sum("| yes |" in line for line in lines) == 3
    assert {"| TensorFlow, oneDNN, float32 | 12.3 |", "| sweep, 4 runs | 9 | 10 | 2.5 | 1.50 |"} <= set(lines)
    assert "Speed: 3 of 4 claims hold on 2 cores" in (tmp_path / "b.svg").read_text()


def test_works_are_measured_alternately():
    order = []
    spent = benchmark.measure_in_turns(2, a=lambda: order.append("a"), b=lambda: order.append("b"))
    assert order == ["a", "b", "a", "b"] and len(spent["a"]) == len(spent["b"]) == 2


def test_files_have_official_names():
    assert len(set(benchmark.official_files(names.N_IMAGES))) == names.N_IMAGES
    few = [names.parse_image_name(Path(file).name) for file in benchmark.official_files(50, (200,))]
    assert len(few) == 50 and {name.magnification for name in few} == {200}
