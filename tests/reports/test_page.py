import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from fake_run import MEASURES, NASTY

from device.errors import RunError
from reports.page import render, write_page
from simulation.runs import Run, per_user_metrics, summarise, write_run

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")


@pytest.fixture(scope="module")
def html(fake_run):
    return render([fake_run])


def test_the_page_is_written_whole_and_alone(fake_run, html):
    target = write_page([fake_run], fake_run.path / "report.html")
    assert target.read_text(encoding="utf-8") == html  # also: the same run gives the same page
    assert [p.name for p in target.parent.iterdir() if p.name.startswith(".")] == []
    target.unlink()


def test_the_page_names_nothing_on_the_network(html):
    links = re.findall(r"""(?:src|href|action)\s*=\s*["']([^"']*)""", html)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "@import" not in html
    assert "url(" not in html


def test_the_security_policy_allows_this_style_and_this_script_only(html):
    csp = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1).replace("&#39;", "'")
    assert csp.startswith("default-src 'none'")
    assert "unsafe" not in csp
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in csp
    assert not re.search(r"<[^>]+\sstyle=", html)  # a style attribute would be blocked
    assert not re.search(r"<[^>]+\son\w+=", html)


def test_titles_and_details_are_escaped(html):
    assert NASTY not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Night cream &amp; serum" in html
    assert "&lt;not&gt; applied" in html


def test_what_a_device_holds_is_on_the_page(html):
    (table,) = re.findall(r'<table aria-labelledby="small1-1">(.*?)</table>', html, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[2:]]
    assert cells == [
        ["always", "50", "50", "replace", "–", "constant"],
        ["&lt;script&gt;alert(1)&lt;/script&gt;", "50", "50", "replace", "30 from 100 %", "constant"],
    ]


def test_figures_are_drawings_with_units(html):
    sources = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert len(sources) == 6
    for source in sources:
        root = ET.fromstring(base64.b64decode(source))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
    drawings = "".join(base64.b64decode(source).decode() for source in sources)
    for label in (
        "bytes sent per step, both directions, installation apart",
        "NDCG@10, mean over users",
        "time from request to usable reply (virtual seconds)",
        "step (interactions since the replay began)",
        "bytes per device",
    ):
        assert f"<!-- {label} -->" in drawings
    assert html.count("<img ") == html.count(" alt=")


def test_the_page_says_what_it_measured(html, fake_run):
    for text in ("leave last 8 per user", "Seen-filter", "tandemrec run configs/beauty.toml --seed 7", "Installation"):
        assert text in html
    assert "pool = 50" in html
    assert html.count('class="verdict">passed') == html.count('class="verdict">look out') == 1
    mean = fake_run.summary["policies"]["always"]["measures"]["ndcg@10"]["mean"]
    assert f'data-sort="{mean}"' in html
    assert '<h2 id="shares">' in html  # see test_shares


def bare_run(root: Path, *, users: int, policies: list[str]) -> Run:
    """No requests, no traffic, none of the keys that are optional."""
    n = users * len(policies)
    steps = {
        "policy": np.repeat(policies, users),
        "device": np.tile(np.arange(users), len(policies)),
        "step": np.ones(n, int),
        "at": np.zeros(n),
        "item": np.ones(n, int),
        "rank": np.ones(n, int),
        "ties": np.ones(n, int),
        "asked": np.zeros(n, bool),
        "pool_age": np.zeros(n, int),
        "latency_s": np.full(n, np.nan),
        "urgency": np.zeros(n),
    }
    names = ("policy", "at", "device", "direction", "kind", "nbytes", "delivered", "attempt")
    ledger = {name: np.empty(0, bool if name == "delivered" else int) for name in names}
    people = per_user_metrics(steps, ledger, {d: str(d) for d in range(users)}, MEASURES)
    shown = {"policy": policies[:1], "device": [0], "step": [1], "items": np.ones((1, 1), int)}
    summary = summarise(steps, ledger, people, MEASURES)
    tables = {"steps": steps, "ledger": ledger, "recommendations": shown, "per_user": people}
    return Run.open(write_run(root, "bare", config_toml="", env={}, summary=summary, **tables))


@pytest.mark.parametrize(("users", "policies"), [(1, ["never"]), (1, ["never", "b"]), (3, ["a", "b"])])
def test_a_run_with_nothing_to_show_still_has_a_page(tmp_path, users, policies):
    html = render([bare_run(tmp_path, users=users, policies=policies)])
    assert "This run carries no leakage audit." in html
    assert "The command was not recorded." in html
    assert ("only one policy" in html) == (len(policies) == 1)
    assert "nan" not in re.sub(r'src="[^"]*"', "", html)


def test_several_runs_share_one_page(fake_run, make_run, tmp_path):
    other = make_run(tmp_path, name="games", seed=9)
    html = render([fake_run, other])
    assert "A · consistency" in html
    assert "B · consistency" in html
    assert f"B · {other.name}</h2>" in html
    assert html.count("Resolved configuration") == 2
    assert "only one policy" not in html


def test_runs_of_one_policy_each_are_not_called_one_policy(tmp_path):
    runs = [bare_run(tmp_path / name, users=3, policies=["never"]) for name in ("one", "two")]
    html = render(runs)
    assert "only one policy" not in html
    assert "Every run has one policy only" in html
    assert "Difference to the baseline." not in html  # no figure without a difference


def test_the_head_names_the_data(make_run, tmp_path):
    run = make_run(tmp_path)
    run.summary["data"] = {"name": "amazon-<beauty>", "hash": "0"}
    assert "<dt>data</dt><dd>amazon-&lt;beauty&gt;</dd>" in render([run])


def test_a_target_that_cannot_be_written_is_an_error(tmp_path):
    run = bare_run(tmp_path / "runs", users=1, policies=["never"])
    with pytest.raises(RunError, match="could not be written"):
        write_page([run], tmp_path / "missing" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(RunError, match="could not be written"):
        write_page([run], tmp_path / "taken")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "taken"]


def test_examples_without_their_keys_name_the_file(tmp_path):
    broken = bare_run(tmp_path, users=1, policies=["never"])
    broken.summary["examples"] = [{"user": "anna"}]
    with pytest.raises(RunError, match=r"summary\.json: .*policy"):
        render([broken])


@pytest.fixture
def browser(tmp_path):
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"{CHROMIUM} and {DRIVER} are not installed (apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


def requested(browser) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def column(browser, index: int) -> list[str]:
    cells = browser.find_elements("css selector", f".sortable tbody tr > :nth-child({index})")
    return [cell.text for cell in cells]


@pytest.mark.browser
def test_the_page_works_in_a_browser(fake_run, tmp_path, browser):
    target = write_page([fake_run], tmp_path / "report.html")
    browser.get(target.as_uri())
    policies = list(fake_run.summary["policies"])
    assert column(browser, 1) == policies

    ratio, p50 = (
        browser.find_element("xpath", f"//th[button[normalize-space()='{title}']]")
        for title in ("Request ratio", "Latency p50")
    )
    ratio.find_element("tag name", "button").click()
    assert ratio.get_attribute("aria-sort") == "descending"
    shares = {name: numbers["request_ratio"] for name, numbers in fake_run.summary["policies"].items()}
    assert column(browser, 1) == sorted(policies, key=shares.__getitem__, reverse=True)
    ratio.find_element("tag name", "button").send_keys("\ue007")  # Enter
    assert ratio.get_attribute("aria-sort") == "ascending"
    assert column(browser, 1) == sorted(policies, key=shares.__getitem__)
    for _ in range(2):
        browser.execute_script("arguments[0].click()", p50.find_element("tag name", "button"))
        assert column(browser, 1)[-1] == "never"  # unknown values stay last in both directions
    assert ratio.get_attribute("aria-sort") is None

    browser.find_element("css selector", ".session summary").click()
    assert NASTY in browser.find_element("css selector", ".session").text
    sizes = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
    assert len(sizes) == 6
    assert min(sizes) > 100
    browser.set_window_size(1200, 800)
    table, difference, recall = (
        browser.find_element("xpath", path).rect
        for path in ("//div[@class='scroll']", *(f"//th[button[.='{t}']]" for t in ("NDCG@10 − never", "Pool recall")))
    )
    assert difference["x"] + difference["width"] < recall["x"] + recall["width"] <= table["x"] + table["width"]
    browser.set_window_size(360, 740)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    inside = ("data:", "chrome:", "chrome-untrusted:")  # the browser's own first tab is chrome://
    assert [url for url in requested(browser) if not url.startswith(inside)] == [target.as_uri()]
