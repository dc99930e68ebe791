import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from report_runs import write_eval, write_run

from esft.evals.results import known
from esft.report.page import make_page
from esft.report.palette import LIGHT_RUNS, TOKENS
from esft.report.read import read_run
from esft.report.sections import sections_of
from esft.report.write import Report, write_report

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def run(tmp_path):
    path = write_run(tmp_path / "run")
    write_eval(path)
    return path


class Page(HTMLParser):
    """The parts of a page that tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.tags, self.words = [], []
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.words.append(data.strip())

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The report of a run with all there can be, and its page."""
    path = write_run(tmp_path_factory.mktemp("made") / "run")
    write_eval(path)
    report = write_report([path])
    return report, Page(report.page.read_text(encoding="utf-8"))


@pytest.fixture
def page(made):
    return made[1]


def page_of(*paths):
    """Return the page of runs without drawing their pictures."""
    runs = [read_run(path) for path in paths]
    sections = sections_of(runs)
    return Page(make_page(runs, sections, {section.name: "-" for section in sections}))


def test_the_report_of_a_run_lies_in_its_folder_with_a_picture_a_section(made):
    report, page = made
    run = report.page.parent

    assert report.page == run / "report.html"
    assert [picture.stem for picture in report.pictures] == [
        "target",
        "prior",
        "drift",
        "decay",
        "kl",
        "rewards",
        "layers",
    ]
    assert all(picture.read_bytes().startswith(PNG) for picture in report.pictures)
    links = [link["href"] for link in page.all("a")]
    assert [run / link for link in links] == list(report.pictures)


def test_the_page_needs_nothing_but_itself(page):
    assert not page.all("script") + page.all("link") + page.all("img") + page.all("iframe")
    assert "url(http" not in page.text
    assert "@import" not in page.text
    addresses = re.findall(r'https?://[^"\s<]+', page.text)
    assert {address.partition("/")[2].split("/")[1] for address in addresses} == {"www.w3.org"}
    assert not any(
        "http" in value
        for _, attrs in page.tags
        for key, value in attrs.items()
        if key in ("src", "href", "xlink:href")
    )


def test_no_two_elements_have_one_id_and_every_use_finds_its_own(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert ids
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', page.text)) <= set(ids)


def test_drawings_take_their_colours_from_the_page_in_light_and_dark(page):
    drawings = "".join(re.findall(r'<svg class="plot".*?</svg>', page.text, re.DOTALL))
    assert "var(--run-0)" in drawings
    assert "var(--ink)" in drawings
    assert not any(token in drawings for token in (TOKENS.ink, *TOKENS.runs))
    assert not set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawings)) - {"#000000"}
    assert page.text.count("prefers-color-scheme: dark") == 2


def test_each_chart_says_in_words_what_it_shows(page):
    charts = [attrs for attrs in page.all("svg") if attrs.get("role") == "img"]
    titles = re.findall(r'role="img"[^>]*><title>(.*?)</title>', page.text)
    assert len(titles) == len(charts) == len(page.all("figure"))
    assert "gsm8k, accuracy by step. run: 0.9 at step 0 to 0.5 at step 4." in titles


def test_every_task_has_its_row_with_change_and_verdict(page):
    words = " ".join(page.words)
    figures = (
        "0.900 ± 0.050",
        "reward 1.800 ± 0.100",
        "−0.400",
        "reward −0.800",
        "(+0.500 to +0.900)",
        "+0 / −16",
    )
    for shown in (*figures, "▼ lost", "down since step 2"):
        assert shown in words
    assert page.text.count('scope="row">mmlu') == 4  # its row, its KL, its two evaluations


def test_names_cannot_write_into_the_page(tmp_path):
    path = write_run(tmp_path / "<b>&run")
    write_eval(path, failed=[{"task": "<script>", "error": "$x$ & <i>"}])

    page = page_of(path)

    assert not page.all("b") + page.all("i") + page.all("script")
    assert "<b>&run" in page.words


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0, "evaluations": {}},
        {"steps": 0, "evaluations": {0: 0.9}},
        {"steps": 1},
        {"steps": 2, "evaluations": {}},
        {"rewards": (math.nan,) * 4, "evaluations": {0: math.nan, 4: 0.5}},
        {"rewards": (0.5,) * 4, "evaluations": {0: 1.0, 4: 1.0}},
    ],
    ids=["nothing", "base alone", "one step", "no evaluation", "NaN", "all equal"],
)
def test_a_run_with_little_to_show_has_a_page(tmp_path, changes):
    page = page_of(write_run(tmp_path / "run", **changes))

    assert "Task by task" in page.words
    assert len(page.all("section")) >= 2
    assert "nan" not in " ".join(page.words).lower()


def test_the_same_run_makes_the_same_bytes(made):
    report, _ = made
    files = [report.page, *report.pictures]
    first = [file.read_bytes() for file in files]

    write_report([report.page.parent])

    assert [file.read_bytes() for file in files] == first


def test_several_runs_come_into_one_picture_each_in_its_colour(run, tmp_path):
    page = page_of(run, write_run(tmp_path / "other", anchor_awd=1.0))

    chart = re.search(r"<figcaption>gsm8k</figcaption>(<svg.*?</svg>)", page.text, re.DOTALL)[1]
    assert {"var(--run-0)", "var(--run-1)"} <= set(re.findall(r"var\(--run-\d\)", chart))
    assert len(set(LIGHT_RUNS)) == len(LIGHT_RUNS)


def test_only_the_settings_in_which_runs_differ_are_listed(run, tmp_path):
    page = page_of(run, write_run(tmp_path / "other", anchor_awd=1.0))

    (table,) = re.findall(r"Settings in which the runs differ</caption>.*?</table>", page.text)
    assert re.findall("<code>(.*?)</code>", table) == ["anchor.awd"]


def test_with_out_all_lies_in_one_folder_and_a_run_named_twice_counts_once(tmp_path):
    path = write_run(tmp_path / "run", steps=1, evaluations={})

    report = write_report([path, tmp_path / "." / "run"], tmp_path / "out")

    assert len(report.runs) == 1
    assert {file.parent for file in (report.page, *report.pictures)} == {tmp_path / "out"}
    assert not (path / "report.html").exists()


def test_a_picture_that_is_no_longer_shown_goes(tmp_path):
    path = write_run(tmp_path / "run", steps=1, evaluations={})
    (path / "report").mkdir()
    (path / "report" / "kl.png").write_bytes(PNG)
    (path / "report" / "mine.png").write_bytes(PNG)

    report = write_report([path])

    shown = {picture.name for picture in report.pictures}
    assert {file.name for file in (path / "report").iterdir()} == shown | {"mine.png"}


def test_the_record_is_json_without_nan(run):
    (run / "metrics.jsonl").write_text('{"step": 1, "reward_mean": NaN, "drift": Infinity}\n')
    report = Report(page=run / "report.html", pictures=(), runs=(read_run(run),))

    record = json.loads(json.dumps(report.as_record(), allow_nan=False))

    assert (record["format"], record["page"]) == (2, str(run / "report.html"))
    assert record["runs"][0]["progress"][0]["reward_mean"] is None


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_not_known(value):
    assert known(value) is None


def test_matplotlib_is_left_as_it_was_and_pyplot_is_never_loaded():
    code = (
        "import sys; from esft.report.chart import Chart, Line; "
        "from esft.report.draw import as_svg; "
        "early = 'matplotlib' in sys.modules; "
        "import matplotlib; matplotlib.rcParams['font.size'] = 31; "
        "line = Line(run=0, steps=(1,), values=(1.0,)); "
        "as_svg(Chart(name='a', title='a', label='a', lines=(line,)), 'a'); "
        "print(early, 'matplotlib.pyplot' in sys.modules, matplotlib.rcParams['font.size'])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "False", "31.0"]
