"""The page of a report: its parts, and how it behaves in headless Chromium."""

import csv
import itertools
import re
import shutil

import numpy as np
import pytest
from made_runs import by_benchmark, write_runs

from plasticity.scripts.report.across import across
from plasticity.scripts.report.command import ReportConfig, report
from plasticity.scripts.report.comparison import compare
from plasticity.scripts.report.page import page
from plasticity.scripts.report.statistics import bands

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VALUES = {
    "none": [[0.9, 0.7, 0.5], [0.8, 0.6, 0.4], [0.9, 0.9, 0.9]],
    "syre": [[0.9, 0.85, 0.8], [0.8, 0.82, 0.84], [0.7, 0.8, 0.9]],
}


def page_of(root):
    comparisons = [compare(runs, None, 0.95) for runs in by_benchmark(root).values()]
    return page(comparisons, across(comparisons), [["figure.png"]] * len(comparisons))


def test_the_headline_comes_first_and_aggregates_with_several_benchmarks(tmp_path):
    write_runs(tmp_path, "permuted-digits", VALUES)
    alone = page_of(tmp_path)
    assert alone.index("Of 2 methods") < alone.index("<h2>Figures</h2>")
    assert "All benchmarks" not in alone
    write_runs(tmp_path, "permuted-mnist", VALUES)
    both = page_of(tmp_path)
    assert both.index("Over 2 benchmarks") < both.index("<b>permuted-mnist.</b>")
    assert '<div id="profile"' in both
    assert "probability of improvement<br>over none" in both


def test_nothing_is_loaded(tmp_path):
    write_runs(tmp_path, "permuted-digits", VALUES)
    text = page_of(tmp_path)
    markup = re.sub(r"<script.*?</script>|<style>.*?</style>", "", text, flags=re.DOTALL)
    assert re.findall(r'\b(?:src|href)="([^"]*)"', markup) == ["figure.png"]
    assert "@import" not in text
    assert len(text.encode()) < 1_100_000


# ---- in a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        # As root, in a container, Chromium has no sandbox.
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the page of two benchmarks, one of them with a sweep over two settings."""
    root = tmp_path_factory.mktemp("runs")
    write_runs(root, "permuted-digits", VALUES, diverged={("none", 1)})
    write_runs(root, "permuted-mnist", VALUES)
    for strength in (0.1, 0.01):
        for sigma in (0.1, 1.0):
            settings = {"strength": strength, "sigma": sigma}
            write_runs(
                root / f"sweep_{strength}_{sigma}",
                "permuted-mnist",
                {"redo": VALUES["none"]},
                settings=settings,
            )
    path = root / "report.html"
    path.write_text(page_of(root), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, written):
    """Return a function that opens the page, and fails the test for any message of the console."""
    contexts, messages = [], []

    def open_it(width=1200, path=written, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda made: made.url.startswith("http") and messages.append(made.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("body[data-drawn]")
        return tab

    yield open_it
    for context in contexts:
        context.close()
    assert messages == []


def changed(tab, action):
    """Do something that draws the charts again, and wait until they are."""
    before = int(tab.evaluate("document.body.dataset.drawn"))
    action()
    tab.wait_for_function(f"Number(document.body.dataset.drawn) > {before}")


def captions(tab):
    return tab.locator("#charts figcaption").all_inner_texts()


def saved(tab, button):
    with tab.expect_download() as download:
        tab.get_by_role("button", name=button, exact=True).click()
    return download.value.path().read_text()


def test_the_controls_choose_what_is_drawn(opened):
    tab = opened()
    assert captions(tab) == ["permuted-digits: test accuracy", "permuted-mnist: test accuracy"]
    ticks = tab.locator("#charts .plot").first.locator(".role-axis-label").first.locator("text")
    assert ticks.all_text_contents() == ["0", "1", "2"]
    changed(tab, lambda: tab.get_by_role("checkbox", name="permuted-mnist").uncheck())
    changed(tab, lambda: tab.get_by_label("Metric").select_option("effective rank"))
    assert captions(tab) == [f"permuted-digits: effective rank, {x}" for x in ("fc1", "fc2")]
    changed(tab, lambda: tab.get_by_label("Layer").select_option("fc2"))
    assert captions(tab) == ["permuted-digits: effective rank, fc2"]
    plot = tab.locator("#charts .plot")
    assert plot.locator("path.mark-line, .mark-line path").count() == 2
    changed(tab, lambda: tab.get_by_label("single seeds").check())
    assert plot.locator(".mark-line path").count() == 2 + 6
    changed(tab, lambda: tab.get_by_role("checkbox", name="syre").uncheck())
    assert plot.locator(".mark-line path").count() == 1 + 3
    assert plot.locator(".mark-area path").count() == 1
    changed(tab, lambda: tab.get_by_label("intervals").uncheck())
    assert plot.locator(".mark-area path").count() == 0
    changed(tab, lambda: tab.get_by_role("checkbox", name="none").uncheck())
    assert "choose a method" in tab.locator("#charts").inner_text()


def test_the_csv_has_the_intervals_of_the_tables(opened):
    tab = opened()
    text = saved(tab, "CSV of permuted-mnist: test accuracy")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["method"] == "none"]
    values = 100 * np.array(VALUES["none"])
    mean, low, high = bands(values, 0.95)
    drawn = np.array([[row["mean"], row["low"], row["high"]] for row in rows], dtype=float).T
    assert drawn == pytest.approx(np.clip([mean, low, high], 0, 100), abs=0.01)
    assert [[float(row[f"seed {seed}"]) for row in rows] for seed in range(3)] == values.tolist()


def test_smoothing_averages_each_run_before_the_seeds(opened):
    tab = opened()
    changed(tab, lambda: tab.get_by_label("Smoothing").select_option("3"))
    text = saved(tab, "CSV of permuted-mnist: test accuracy")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["method"] == "none"]
    # Of 90, 70, 50: (90 + 70) / 2, (90 + 70 + 50) / 3 and (70 + 50) / 2.
    assert [float(row["seed 0"]) for row in rows] == [80, 70, 60]
    runs = 100 * np.array([[0.8, 0.7, 0.6], [0.7, 0.6, 0.5], [0.9, 0.9, 0.9]])
    mean, low, _ = bands(runs, 0.95)
    assert [float(row["mean"]) for row in rows] == pytest.approx(mean, abs=0.01)
    assert [float(row["low"]) for row in rows] == pytest.approx(np.maximum(low, 0), abs=0.01)


def test_a_diverged_run_ends_in_a_cross_and_counts_no_more(opened):
    tab = opened()
    changed(tab, lambda: tab.get_by_label("single seeds").check())
    digits = tab.locator("#charts figure").first
    assert digits.locator("text", has_text="✕").count() == 1
    digits.get_by_text("Values").click()
    last = digits.locator("tbody tr").last.locator("td").first.inner_text()
    # (50 + 90) / 2
    assert last.startswith("70.0 [")
    assert last.endswith(", 2 seeds")


def test_a_run_that_diverged_at_its_first_row_has_its_cross_on_the_axis(opened, tmp_path):
    values = {"none": VALUES["none"], "redo": [[None]]}
    write_runs(tmp_path, "permuted-digits", values, diverged={("redo", 0)})
    path = tmp_path / "report.html"
    path.write_text(page_of(tmp_path), encoding="utf-8")
    tab = opened(path=path)
    changed(tab, lambda: tab.get_by_label("single seeds").check())
    cross = tab.locator("#charts text", has_text="✕").bounding_box()
    axis = tab.locator("#charts .role-axis-domain line").first.bounding_box()
    assert cross["y"] <= axis["y"] <= cross["y"] + cross["height"]


def test_values_are_shown_under_the_pointer(opened):
    tab = opened()
    plot = tab.locator("#charts figure").nth(1).locator("svg")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.6 * box["height"])
    tip = tab.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert re.search(r"task\s+1\s+none\s+73\.3 \[", tip.inner_text())  # (70 + 60 + 90) / 3


def test_a_figure_is_saved_as_svg_with_the_fonts_and_colours_of_paper(opened):
    text = saved(opened(color_scheme="dark"), "SVG of permuted-mnist: test accuracy")
    assert text.startswith("<svg")
    assert "currentColor" in text  # which is black where nothing else is said
    assert ">syre</text>" in text


def test_tables_are_sorted_by_any_column_with_the_keyboard(opened):
    tab = opened()
    table = tab.locator("h2:text-is('permuted-digits') ~ div table").first
    names = table.locator("tbody th")
    assert [name.split()[0] for name in names.all_inner_texts()] == ["none", "syre"]
    head = table.locator("thead th").nth(3)  # last: none 70, syre 84.7
    head.locator("button").focus()
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    tab.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [name.split()[0] for name in names.all_inner_texts()] == ["syre", "none"]


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_it_is_accessible_and_fits_the_screen(opened, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab = opened(width, color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    found = axe.run(tab).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_the_name_of_a_method_of_ones_own_may_be_long(opened, tmp_path):
    write_runs(tmp_path, "permuted-digits", {"none": VALUES["none"], "a" * 100: VALUES["syre"]})
    path = tmp_path / "report.html"
    path.write_text(page_of(tmp_path), encoding="utf-8")
    assert opened(390, path).evaluate("document.documentElement.scrollWidth") == 390


def test_in_print_a_dark_page_is_dark_on_white_and_without_controls(opened):
    tab = opened(color_scheme="dark")
    tab.emulate_media(media="print", color_scheme="dark")
    style = "getComputedStyle(document.body)"
    assert tab.evaluate(f"[{style}.color, {style}.backgroundColor]") == [
        "rgb(27, 27, 27)",
        "rgb(255, 255, 255)",
    ]
    label = tab.locator("#charts svg text").first
    assert label.evaluate("(each) => getComputedStyle(each).fill") == "rgb(27, 27, 27)"
    assert not tab.locator("#controls").is_visible()
    assert not tab.locator(".downloads").first.is_visible()


def test_a_map_is_legible_on_a_narrow_screen(opened, tmp_path):
    names = ("a-name-that-takes-up-most-of-the-line", "anchor")
    for strength, sigma, decoupled, target in itertools.product(
        (1.0, 2.0), (0.1, 0.2), (False, True), names
    ):
        settings = {"strength": strength, "sigma": sigma, "decoupled": decoupled, "target": target}
        folder = tmp_path / "_".join(map(str, settings.values()))
        values = {"syre": [[0.001 * strength + 0.01 * sigma]]}
        write_runs(folder, "permuted-digits", values, metric="online_loss", settings=settings)
    path = tmp_path / "report.html"
    path.write_text(page_of(tmp_path), encoding="utf-8")
    plot = opened(390, path).locator("#map-permuted-digits svg").first
    texts = plot.locator("text").all_text_contents()
    assert {"0.00200", "0.00300", "0.00400"} <= set(texts)
    title, box = plot.locator(".role-title text").bounding_box(), plot.bounding_box()
    assert box["x"] <= title["x"]
    assert title["x"] + title["width"] <= box["x"] + box["width"]


def test_presets_of_one_benchmark_have_controls_and_maps_of_their_own(opened, tmp_path):
    for preset in ("quick", "narrow"):
        for sigma in (0.1, 1.0):
            for strength, decoupled in itertools.product((0.1, 0.01), (False, True)):
                folder = tmp_path / preset / f"{sigma}_{strength}_{decoupled}"
                settings = {"strength": strength, "sigma": sigma, "decoupled": decoupled}
                values = {"syre": VALUES["syre"]}
                write_runs(folder, "permuted-digits", values, settings=settings)
    path, *_ = report(
        ReportConfig((tmp_path / "quick", tmp_path / "narrow"), out=tmp_path / "page")
    )
    tab = opened(path=path)
    assert captions(tab) == [
        f"{name}/permuted-digits: test accuracy" for name in ("quick", "narrow")
    ]
    for name in ("quick", "narrow"):
        panels = tab.locator(f'[id="map-{name}/permuted-digits"] svg')
        titles = [text for text in panels.all_text_contents() if "decoupled" in text]
        assert len(titles) == panels.count() == 2
    changed(tab, lambda: tab.get_by_role("checkbox", name="quick/permuted-digits").uncheck())
    assert captions(tab) == ["narrow/permuted-digits: test accuracy"]
    assert saved(tab, "CSV of narrow/permuted-digits: test accuracy").startswith("method,task,")
