"""The page that client/examples/syncd serves, in a browser: two windows of one user, on two hosts."""

import os
import re
import shutil

import pytest

from harness.procs import wait_until
from harness.syncd import START

webdriver = pytest.importorskip("selenium.webdriver", reason="there is no python3-selenium")

SHOTS = os.environ.get("SYNCD_SCREENSHOTS")  # a directory to leave pictures in, for people


@pytest.fixture
def browser(run, cleanup):
    """browser(syncd): a new window of a browser."""
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("there is no chromium, or no chromium-driver")

    def start(size="900,800"):
        from selenium.webdriver.chrome.service import Service
        options = webdriver.ChromeOptions()
        for flag in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
                     "disable-component-update", "disable-sync", "disable-dev-shm-usage", "window-size=" + size,
                     "user-data-dir=" + run.subdirectory("browser")):
            options.add_argument("--" + flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        window = webdriver.Chrome(service=Service("/usr/bin/chromedriver"), options=options)
        window.close = window.quit
        return cleanup.add(window)
    return start


def note(window):
    return window.find_element("id", "note")


def opened(window, syncd, user="alice"):
    window.get(f"http://127.0.0.1:{syncd.port}/#{user}")
    wait_until(lambda: note(window).is_enabled(), "the window is live")
    return window


def shows(window, text):
    wait_until(lambda: note(window).get_property("value") == text, lambda: f"{text!r}, not {note(window).get_property('value')!r}")


def picture(window, name):
    if SHOTS:
        window.save_screenshot(os.path.join(SHOTS, name))


def test_one_window_types_and_another_sees_it(browser, make_syncd, relays, db, bouncer):
    a, b = (make_syncd(relay, DATABASE_URL=bouncer.url(db)).start() for relay in relays)
    one, two = opened(browser(), a), opened(browser("390,800"), b)
    note(one).send_keys("Hello, Zoë")
    shows(two, "Hello, Zoë")
    note(two).send_keys(" — and back")
    shows(one, "Hello, Zoë — and back")
    picture(one, "wide.png")
    picture(two, "narrow.png")
    assert "changed, by another" in one.find_element("id", "heard").text

    # A worker dies; the window finds another, and what it typed meanwhile is kept.
    os.kill(int(re.search(r"worker (\d+)", one.find_element("id", "live").text)[1]), 9)
    note(one).send_keys("!")
    shows(two, "Hello, Zoë — and back!")
    wait_until(lambda: "live, worker" in one.find_element("id", "live").text, "the window is live again")
    note(two).send_keys("?")
    shows(one, "Hello, Zoë — and back!?")

    # Another user sees none of it.
    opened(two, b, "bob")
    shows(two, "")
    for window in (one, two):
        refused = [entry["message"] for entry in window.get_log("browser") if "Content Security Policy" in entry["message"]]
        assert not refused, refused


def test_the_page_allows_nothing_but_itself(make_syncd):
    syncd = make_syncd(SYNCD_WORKERS="1").start()
    page = syncd.ask("GET", "/")
    policy = page.headers["Content-Security-Policy"]
    assert page.status == 200 and page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert not re.search(rb"(src|href)=.?(https?:|//)", page.body), "no outside asset"
    assert syncd.ask("HEAD", "/").status == 200
    assert syncd.listen("alice").started().events == [START]
