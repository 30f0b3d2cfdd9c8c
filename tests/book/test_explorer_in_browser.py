"""The explorer and the sorting of tables in a real browser: filters, keyboard, address, redo."""

import re
from urllib.parse import parse_qs, unquote

import pandas as pd
import pytest

from lmcompress import records, sweep
from lmcompress.report import explorer, sweep_page

BOOK = "book/results/explorer.html"
LINK = "https://colab/github/lmcompress/blob/main/notebooks/PAGE.ipynb"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The explorer of all results in a page of its own."""
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    path.write_text(explorer.document("Explorer", explorer.of_book("", LINK)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def open_page(browser, alone):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))

    def go(address):
        page.goto("about:blank")
        page.goto(alone + address if address.startswith("#") else address)
        return page

    yield go
    context.close()


def fragment(page) -> str:
    return page.evaluate("location.hash.slice(1)")


def chosen(page) -> int:
    return int(re.match(r"([\d,]+) of", page.get_by_role("status").text_content())[1].replace(",", ""))


def test_filters_are_in_the_address_and_come_from_it(open_page):
    page = open_page("#kind=pruned_model&y=perplexity&x=pattern&colour=criterion")
    everything = chosen(page)
    assert everything == len(records.published_records("pruned_model"))
    page.locator("summary", has_text="criterion").first.click()
    page.locator("input[name=criterion][value=wanda]").check()
    one = chosen(page)
    assert 0 < one < everything
    assert parse_qs(fragment(page))["criterion"] == ["wanda"]
    again = open_page("#" + fragment(page))
    assert chosen(again) == one
    assert again.locator("summary", has_text="criterion").first.text_content() == "criterion: wanda"
    assert again.locator(".lm-panels svg[role=img] g").count() == one


def test_the_keyboard_is_enough(open_page):
    page = open_page("#kind=pruned_model&y=perplexity&x=pattern&colour=criterion")
    page.locator("summary", has_text="criterion").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert parse_qs(fragment(page))["criterion"] == ["magnitude"]
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert not page.locator("input[value=sparsegpt]").is_visible()
    page.locator("th button", has_text="perplexity").focus()
    page.keyboard.press("Enter")
    assert page.locator("th[aria-sort=ascending]").text_content() == "perplexity"
    assert page.evaluate("document.activeElement.textContent") == "perplexity"
    at = page.locator(".lm-explorer > .lm-table th").all_text_contents().index("perplexity") + 1
    cells = page.locator(f".lm-explorer > .lm-table td:nth-child({at})").all_text_contents()
    column = [float(text.replace(",", "")) for text in cells]
    assert column == sorted(column)
    assert len(column) == chosen(page) > 3


def test_layers_of_a_row_are_drawn_and_linked(open_page):
    page = open_page("#kind=frontier&y=loss+increase&x=bits+a+weight")
    page.locator(".lm-explorer td button").first.click()
    assert page.locator(".lm-layers rect").count() > 5
    assert page.locator(".lm-layers svg").get_attribute("aria-label").startswith("bits of each layer, ")
    page = open_page("#" + fragment(page))
    assert page.locator(".lm-layers svg").count() == 1


def test_masks_follow_the_filters(open_page):
    page = open_page("#kind=pruned_model&criterion=wanda&y=perplexity&x=pattern")
    shown = page.locator(".lm-masks figure")
    assert shown.locator("strong").all_text_contents() == ["wanda, 2:4", "wanda, 50%"]
    assert all(
        page.evaluate("[...document.querySelectorAll('.lm-masks img')].map((one) => one.naturalWidth)")
    )
    page.locator("summary", has_text="pattern").first.click()
    page.locator("input[value='30%']").check()
    assert shown.count() == 0


@pytest.mark.parametrize(
    "more", ["", "&find=pruned_model+2:4", "&criterion=wanda&criterion=magnitude&pattern=50%25"]
)
def test_the_sweep_file_asks_for_just_these_runs(open_page, tmp_path, more):
    page = open_page(f"#kind=pruned_model&y=perplexity&x=pattern{more}")
    page.locator(".lm-again summary").click()
    file = tmp_path / "these.yaml"
    file.write_text(unquote(page.locator(".lm-again a[download]").get_attribute("href").partition(",")[2]))
    wanted, _ = sweep.read(file)
    listed = page.locator(".lm-explorer tbody code").all_text_contents()
    found = {record.key[:12]: record.parameters for record in records.published_records("pruned_model")}
    runs = [one.model_dump(mode="json") for one in wanted]
    assert len(runs) == len(listed)
    assert all(found[key] in runs for key in listed)
    assert (
        page.get_by_role("link", name="10_pruning_sweep")
        .last.get_attribute("href")
        .endswith("10_pruning_sweep.ipynb")
    )


def test_the_page_of_a_sweep_has_the_same_filters(open_page, tmp_path):
    rows = [
        {"model": "m", "pattern": pattern, "criterion": criterion, "seed": seed, "seconds": 1.0, "key": "0"}
        | {"result.perplexity.value": 10.0 + seed}
        for pattern in ("30%", "50%", "70%")
        for criterion in ("wanda", "magnitude")
        for seed in (0, 1, 2, 3)
    ]
    file = tmp_path / "results.html"
    file.write_text(sweep_page.page(pd.DataFrame(rows), "mine"), encoding="utf-8")
    page = open_page(file.as_uri())
    assert chosen(page) == 24
    page.locator("summary", has_text="pattern").first.click()
    page.locator("input[value='50%']").check()
    assert chosen(page) == 8
    assert page.locator(".lm-panels svg[role=img]").count() == 4  # one for each seed


def test_the_book_holds_it_for_readers_of_any_kind(browser, built):
    context = browser.new_context(viewport={"width": 390, "height": 844}, offline=True)
    page = context.new_page()
    page.goto((built / BOOK).as_uri())
    assert chosen(page) == len(records.published_records("pruned_model"))
    assert not page.locator(".lm-static").is_visible()
    context.close()


def test_without_javascript_the_first_view_is_a_figure_and_a_table(browser, built):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((built / BOOK).as_uri())
    assert page.locator(".lm-static svg[role=img]").is_visible()
    assert page.locator(".lm-static table").count() == 1
    assert page.locator(".lm-static .lm-mask").first.is_visible()
    context.close()


def test_a_table_is_sorted_by_its_heads(open_page, built):
    page = open_page((built / "notebooks/10_pruning_sweep.html").as_uri())
    folded = page.locator("details", has_text="Data of this figure").first
    folded.locator("summary").click()
    table = folded.locator("table")
    head = table.locator("th", has_text="perplexity")
    column = f"td:nth-child({table.locator('th').all_text_contents().index('perplexity') + 1})"
    first = table.locator(column).all_text_contents()
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert table.locator(column).all_text_contents() == sorted(first, key=float)
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert table.locator(column).all_text_contents() == sorted(first, key=float, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert table.locator(column).all_text_contents() == first


def test_a_head_without_words_or_with_a_link_is_left_alone(open_page, tmp_path):
    row = "<tr><td>a</td><td>1</td><td>x</td></tr>"
    heads = "<tr><th><p></p></th><th>n</th><th><a href='#'>link</a></th></tr>"
    table = f"<div class='lm-table'><table><thead>{heads}</thead><tbody>{3 * row}</tbody></table></div>"
    (tmp_path / "page.html").write_text(explorer.document("Heads", table), encoding="utf-8")
    page = open_page((tmp_path / "page.html").as_uri())
    assert page.locator("th button").all_text_contents() == ["n"]
