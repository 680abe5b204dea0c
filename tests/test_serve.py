"""The page: without Gradio it says what to install; in headless Chromium it answers, refuses and explains."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from test_story import settings

from breakhis_cls import serve, train

CHROMIUM = shutil.which("chromium")


def test_help_answers_without_gradio_and_a_run_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as done:
        serve.main(["--help"])
    assert done.value.code == 0 and "--port" in capsys.readouterr().out
    assert serve.main([str(tmp_path)]) == 2
    assert "pip install -c constraints.txt -e '.[app]'" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: True)
    assert serve.main([str(tmp_path)]) == 2
    assert "not a finished run" in capsys.readouterr().err


@pytest.fixture(scope="module")
def page(tiny_tree, tmp_path_factory):
    """Address of a served run, whose images lie at `data.root`, and the run's folder."""
    pytest.importorskip("gradio")
    pytest.importorskip("playwright")
    if not CHROMIUM:
        pytest.skip("no chromium on this machine")
    run = train.train_run(settings(tiny_tree, tmp_path_factory.mktemp("serve"))).folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "breakhis_cls.serve", str(run), "--port", str(port)]
    server, address = subprocess.Popen(command), f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if server.poll() is not None:
                pytest.fail(f"serve ended with {server.returncode}")
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield address, run
    finally:
        server.terminate()
        server.wait(30)


def ask(tab, address, *paths):
    """The text of the answers for some files."""
    tab.goto(address)
    tab.set_input_files("input[type=file]", [str(path) for path in paths])
    tab.wait_for_function(f"document.querySelectorAll('.file-preview tr').length == {len(paths)}", timeout=60_000)
    tab.click("#predict")
    tab.wait_for_function(f"document.querySelectorAll('article.answer').length == {len(paths)}", timeout=120_000)
    return tab.inner_text("#answers")


@pytest.mark.slow
def test_the_page_answers_refuses_and_explains_for_two_users_at_once(page, tiny_tree, tmp_path):
    from playwright.sync_api import sync_playwright

    Image.new("RGB", (70, 46), (255, 255, 255)).save(tmp_path / "white.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    address, run = page
    split = pd.read_csv(run / "split.csv")
    known = next(tiny_tree.rglob(Path(split.loc[split["part"] == "train", "file"].iloc[0]).name))  # at distance 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            tab, other = (
                browser.new_context().new_page(),
                browser.new_context(viewport={"width": 390, "height": 844}).new_page(),
            )
            text = ask(tab, address, known, tmp_path / "white.png", tmp_path / "broken.png")
            assert "Calibrated probability" in text and "white.png: refused" in text
            assert "farther from the training images than 99 %" in text
            assert (
                "broken.png: cannot be read" in text
                and "no image that Pillow can read" in text
                and str(tmp_path) not in text
            )
            images = tab.locator("article.answer img")
            assert images.count() >= 8 and all(images.nth(at).get_attribute("alt") for at in range(images.count()))
            assert "Nearest malignant training cases" in text and "medical device" in tab.inner_text("body")
            # A second user has a page of their own, narrow, and both are answered.
            for one in (tab, other):
                one.goto(address)
                one.set_input_files("input[type=file]", str(known))
                one.wait_for_selector(".file-preview tr", timeout=60_000)
            for one in (tab, other):
                one.click("#predict")
            for one in (tab, other):
                one.wait_for_selector("article.answer", timeout=120_000)
                assert known.name in one.inner_text("#answers")
            assert other.evaluate("document.documentElement.scrollWidth") <= 390
        finally:
            browser.close()
