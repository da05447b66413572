"""The report in a real browser: what is drawn, and that nothing is asked of the network.

Needs Debian's packages chromium and chromium-driver, which `.ci/run` installs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

from helpers.journals import confirmed, usual
from tune_swa.results.report.page import write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs the programs chromium and chromedriver"
)
EVIL = "</script><script>alert(1)</script><b>bold</b>"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


@pytest.fixture(scope="module")
def page(module_path: Path) -> Path:
    writer = confirmed(module_path)
    for k in range(8):
        params = {"lr": (1e-3, 3e-3)[k % 2], "swa_start": k % 3, "swa_lr": 1e-4 * (k + 1)}
        writer.trial(f"swa-1{k}", params, [0.5, 0.6, 0.7, 0.8 + k / 100])
    writer.finish()
    state = writer.state()
    assert state.header is not None
    state.header.data["class_names"] = [EVIL, "b"]
    return write_report(state, module_path, lambda k: (PNG, f"{EVIL} {k}"))


@pytest.fixture(scope="module", params=["desktop", "phone"])
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if request.param == "phone":
        metrics = {"width": 390, "height": 844, "pixelRatio": 2.0}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    else:
        options.add_argument("--window-size=1280,1000")
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(30)
    yield driver
    driver.quit()


def await_figures(browser: Any) -> None:
    """Wait until every figure of the page is drawn, which the load of the page does not wait for."""
    drawn = (
        "const figures = [...document.querySelectorAll('.figure')];"
        "return figures.length > 0 && figures.every(d => d.querySelector('.main-svg') !== null)"
    )
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(drawn))


def test_it_is_drawn_without_errors_or_requests(browser: Any, page: Path, tmp_path: Path) -> None:
    browser.get(page.as_uri())
    await_figures(browser)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    drawn = browser.execute_script(
        """return [...document.querySelectorAll(".figure")].map(d => ({
            id: d.id, traces: d.data.length,
            width: d.querySelector(".main-svg").getBoundingClientRect().width,
            marks: d.querySelectorAll(".scatterlayer .trace, .barlayer .trace, .contour").length,
        }))"""
    )
    assert {d["id"] for d in drawn} == {
        f"figure-{name}" for name in
        ("forest", "seeds", "landscape", "curves", "work", "importance", "best_of", "calibration", "classes",
         "temperature")
    }  # fmt: skip
    assert all(d["marks"] >= d["traces"] > 0 and d["width"] > 200 for d in drawn)
    # the page does not scroll sideways: wide tables scroll by themselves
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    # each picture has the table of its numbers
    tables = browser.execute_script(
        "const count = d => d.parentNode.querySelectorAll('tr').length;"
        "return [...document.querySelectorAll('.figure')].map(count)"
    )
    assert all(rows > 1 for rows in tables)
    images = browser.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert images
    assert all(images)

    with pytest.raises(NoAlertPresentException):
        _ = browser.switch_to.alert
    assert not browser.execute_script("return [...document.querySelectorAll('b')].length")
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []
    requests = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert requests
    assert all(url == page.as_uri() or url.startswith("data:") for url in requests)


def test_a_search_under_way_is_drawn(browser: Any, tmp_path: Path) -> None:
    writer = usual(tmp_path)
    writer.suggest("swa-9", {"lr": 1e-3, "swa_start": 2, "swa_lr": 1e-3})
    browser.get(write_report(writer.state(), tmp_path).as_uri())
    await_figures(browser)
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_on_paper_every_table_is_open(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    await_figures(browser)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return [...document.querySelectorAll('details')].every(d => d.open)")
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert not browser.execute_script("return [...document.querySelectorAll('details')].some(d => d.open)")
