"""The page of a vote in a real browser: keyboard, undo, reload, several people, blindness, phones."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from srpo_ray.votes.ballot import Ballot
from srpo_ray.votes.ledger import open_ledger, read_votes
from srpo_ray.votes.server import VoteServer, open_server
from srpo_ray.votes.session import Session
from tests.helpers.ballots import ballot
from tests.helpers.browser import launch_browser

SYSTEMS = ["base", "SRPO_trial_0"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launch_browser() as launched:
        yield launched


@pytest.fixture
def of(tmp_path: Path) -> Ballot:
    return ballot(tmp_path, SYSTEMS, prompts=4)


@contextmanager
def serving(of: Ballot, port: int = 0) -> Iterator[VoteServer]:
    """Serve a ballot, as the command does."""
    with open_ledger(of.folder) as ledger:
        session = Session(of, ledger, read_votes(of.folder), repeats=0.0)
        server = open_server("127.0.0.1", port, None)
        thread = threading.Thread(target=server.serve, args=(session, 0.01), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def start(page: Page, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#voting")).to_be_visible()


def press(page: Page, key: str, count: int) -> None:
    """Press a key and wait until so many votes are counted."""
    page.keyboard.press(key)
    expect(page.locator("#count")).to_have_text(f"{count} of 4 pairs")
    expect(page.locator("#pair")).not_to_have_class("waiting")


def test_votes_by_keyboard_undo_reload_and_a_second_person(browser: Browser, of: Ballot) -> None:
    with serving(of) as server:
        page = browser.new_page()
        page.goto(server.url)
        start(page, "Ada")
        press(page, "ArrowLeft", 1)
        press(page, "x", 2)
        prompt = page.locator("#prompt").inner_text()
        press(page, "ArrowRight", 3)
        press(page, "u", 2)
        assert page.locator("#prompt").inner_text() == prompt
        press(page, "ArrowDown", 3)
        shown = page.locator("#prompt").inner_text()
        page.reload()
        # The name is known, and the same pair waits.
        expect(page.locator("#count")).to_have_text("3 of 4 pairs")
        assert page.locator("#prompt").inner_text() == shown
        page.keyboard.press("Space")
        expect(page.get_by_role("heading", name="All pairs are judged")).to_be_visible()
        page.get_by_role("button", name="Another person").click()
        start(page, "Bo")
        press(page, "ArrowRight", 1)
        page.close()
    votes = read_votes(of.folder)
    assert [(vote.rater, vote.choice) for vote in votes] == [
        ("Ada", "left"), ("Ada", "both_bad"), ("Ada", "tie"), ("Ada", "tie"), ("Bo", "right"),
    ]  # fmt: skip
    assert len({vote.item for vote in votes if vote.rater == "Ada"}) == 4


def test_nothing_that_reaches_the_browser_tells_which_system_is_which(browser: Browser, of: Ballot) -> None:
    with serving(of) as server:
        page, seen = browser.new_page(), list[str]()
        page.on(
            "response", lambda response: seen.append(f"{response.url} {response.headers} {response.body()[:9999]!r}")
        )
        page.goto(server.url)
        start(page, "Ada")
        for count in (1, 2, 3):
            press(page, "ArrowLeft", count)
        text = page.content() + "".join(seen)
        assert len(seen) > 10
        assert [name for name in ("trial", "base_", "tuned", of.folder.name, *of.items) if name in text] == []
        assert server.token in text
        hosts = {each.split("/")[2] for each in seen}
        assert hosts == {f"127.0.0.1:{server.server_address[1]}"}
        page.close()


def test_page_without_the_token_and_a_stopped_server_are_explained(browser: Browser, of: Ballot) -> None:
    page = browser.new_page()
    with serving(of) as server:
        port = int(server.server_address[1])
        answer = page.goto(f"http://127.0.0.1:{port}/")
        assert answer is not None
        assert answer.status == 403
        assert "token" in page.locator("body").inner_text()
        page.goto(server.url)
        start(page, "Ada")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("alert")).to_contain_text("Your earlier votes are stored")
    with serving(of, port):
        # Each connection that the browser kept to the old server is closed by one request.
        for _ in range(8):
            page.keyboard.press("ArrowLeft")
            expect(page.locator("#pair")).not_to_have_class("waiting")
            if "started again" in page.get_by_role("alert").inner_text():
                break
        expect(page.get_by_role("alert")).to_contain_text("started again")
    assert read_votes(of.folder) == []
    page.close()


def test_page_fits_a_phone_and_images_can_be_tapped_and_zoomed(browser: Browser, of: Ballot) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True)
    with serving(of) as server:
        page = context.new_page()
        page.goto(server.url)
        start(page, "Ada")
        size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert size == [360, 640]
        page.get_by_role("button", name="Zoom").tap()
        assert page.locator("#left-image").evaluate("image => image.getBoundingClientRect().width") > 600
        page.locator("#right").tap()
        expect(page.locator("#count")).to_have_text("1 of 4 pairs")
    context.close()
    assert [vote.choice for vote in read_votes(of.folder)] == ["right"]
