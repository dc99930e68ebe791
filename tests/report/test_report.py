"""The page of a report: it needs nothing else, shows every figure, and is the same every time."""

import json
import math
import re
import sys
from html.parser import HTMLParser

import matplotlib
import pytest
from report_runs import write_eval, write_run

from esft.report.chart import Box, Chart, Line
from esft.report.charts import NAMES, sections_of
from esft.report.draw import DARK, LIGHT, as_png, as_svg
from esft.report.read import read_run
from esft.report.trades import frontier
from esft.report.write import make_page, write_report

PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """The parts of a page that tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.text = text
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data.strip())

    def all(self, name):
        return [attrs for tag, attrs in self.tags if tag == name]

    def drawing(self, words):
        """The SVG of the chart that is described by words beginning with `words`."""
        (drawing,) = re.findall(
            rf'aria-label="{re.escape(words)}[^"]*">(<svg.*?</svg>)', self.text, re.S
        )
        return drawing


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


def page_of(*paths, shown=NAMES):
    """The page of runs with some of its sections, without the pictures beside it."""
    runs = [read_run(path) for path in paths]
    sections = [section for section in sections_of(runs) if section.name in shown]
    return Page(make_page(runs, sections, dict.fromkeys(NAMES, "-")))


def test_the_report_of_a_run_lies_in_its_folder_with_a_picture_a_section(made):
    report, page = made
    run = report.page.parent

    assert report.page == run / "report.html"
    of_one = tuple(name for name in NAMES if name != "trade")  # which compares several
    assert tuple(picture.stem for picture in report.pictures) == of_one
    assert all(picture.read_bytes().startswith(PNG) for picture in report.pictures)
    assert [run / link["href"] for link in page.all("a")] == list(report.pictures)


def test_the_page_needs_nothing_but_itself(page):
    assert not [tag for tag in ("script", "link", "iframe", "img") if page.all(tag)]
    assert "@import" not in page.text
    assert not re.search(r'(?:url\(|href="|src=")(?!#|report/)', page.text)


def test_the_page_says_where_the_time_went(page):
    assert "engine 12.5%, rollout 50.0%, grading 37.5%, other 0.0%" in page.text


def test_each_chart_is_said_in_words_and_drawn_in_the_colours_of_the_page(page):
    words = [attrs["aria-label"] for attrs in page.all("div") if "aria-label" in attrs]
    assert len(words) == len(page.all("figure")) == len(page.all("svg"))
    assert "gsm8k, right answers by step. run: 0.9 at step 0 to 0.5 at step 4." in words
    drawing = page.drawing("gsm8k, right answers")
    assert "var(--run-0)" in drawing
    for palette in (LIGHT, DARK):
        assert palette.runs[0] not in drawing  # or one scheme would have the other's
        assert all(f"--{name}: {colour};" in page.text for name, colour in palette.named().items())


def test_every_task_has_its_row_with_change_and_verdict(page):
    words = " ".join(page.words)
    for shown in ("90\u00a0%", "0.900 ± 0.050", "reward 1.800", "−40.0 points", "reward −0.800"):
        assert shown in words
    for shown in ("(+0.500 to +0.900)", "+0 / −16", "▼ lost", "down since step 2"):
        assert shown in words
    # Its row, KL, two evaluations, pass@2 of both, three times by the largest changes.
    assert page.text.count('scope="row">mmlu') == 9
    assert "Answers were drawn for pass@k: 2 to each row at temperature 0.5" in words
    words = " ".join(words.split())
    assert "mmlu 0 2 0.375 – mmlu 4 2 0.250 ± 0.050 −12.5 points −22.5 to −2.5" in words
    assert "4 20 % 0.0156 25.0% 25%" in words
    assert "mmlu 4 100 % 0.400 ± 0.100 1 0.500 ± 0.100 –" in words
    assert "mmlu 4 all × 0.25 0.400 ± 0.100 0.50 0.25 to 0.88 0.500 ± 0.100 –" in words
    assert "mmlu 4 20 % 0.450 ± 0.100 0.50 0.25 to 0.88 0.500 ± 0.100 –" in words


def test_names_and_answers_cannot_write_into_the_page(tmp_path):
    path = write_run(tmp_path / "<b>&run")
    write_eval(path, failed=[{"task": "<script>", "error": "$x$ & <i>"}])

    page = page_of(path, shown=())

    assert not page.all("b") + page.all("i") + page.all("u") + page.all("script")
    assert "<b>&run" in page.words
    assert "<b>Q</b> & 0?" in page.words  # questions and answers are texts of strangers
    assert any(words.startswith("<i>arc</i> step 4: long") for words in page.words)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0, "evaluations": {}},
        {"steps": 0, "evaluations": {0: 0.9}},
        {"rewards": (math.nan,) * 4, "evaluations": {0: math.nan, 4: 0.5}},
        {"rewards": (0.5,) * 4, "evaluations": {0: 1.0, 4: 1.0}},
    ],
    ids=["nothing", "base alone", "NaN", "all equal"],
)
def test_a_run_with_little_to_show_has_a_page(tmp_path, changes):
    page = page_of(write_run(tmp_path / "run", **changes))

    assert "arc on embedded" in page.words
    assert "Runs, times and settings" in page.words
    assert "nan" not in " ".join(page.words).lower()


def test_the_same_run_makes_the_same_bytes(made):
    report, page = made
    section = sections_of([read_run(report.page.parent)])[0]
    chart = section.charts[0]

    assert as_png(section.charts, section.keys) == report.pictures[0].read_bytes()
    assert as_svg(chart).strip() == page.drawing(chart.described(["run"]))


def test_several_runs_are_shown_by_what_they_gained_against_what_they_lost(tmp_path):
    shares = {"best": 0.4, "worse": 0.7, "kept": 0.9}
    paths = [
        write_run(tmp_path / name, evaluations={0: 0.9, 4: share}, anchor_awd=0.1 * at)
        for at, (name, share) in enumerate(shares.items())
    ]

    runs = [read_run(path) for path in paths]
    (trade,) = (section for section in sections_of(runs) if section.name == "trade")

    (chart,) = trade.charts
    points = [(line.steps[0], line.values[0]) for line in chart.lines]
    assert points == [pytest.approx(xy) for xy in ((-50, 50), (-20, 22.5), (0, 0))]
    assert all(line.errors[0] > 0 for line in chart.lines[:2])
    page = page_of(*paths)
    assert "On the frontier, by these means" in page.text
    assert not [one for one in sections_of(runs[:1]) if one.name == "trade"]


def test_the_frontier_is_what_no_other_beats_in_both():
    trades = [(-3.0, 14.0, 1.0), (-0.2, 9.0, 1.0), (-3.5, 13.0, 1.0), (-0.2, 9.0, 1.0)]

    assert frontier(trades) == [0, 1, 3]
    assert frontier([*trades, (0.0, 14.0, 1.0)]) == [4]


def test_several_runs_come_into_one_picture_each_in_its_colour_with_what_differs(made, tmp_path):
    other = write_run(tmp_path / "other", anchor_awd=1.0)

    page = page_of(made[0].page.parent, other, shown=("tasks",))

    drawing = page.drawing("gsm8k, right answers")
    assert all(f"var(--run-{number})" in drawing for number in range(2))
    differing = page.text.partition("Settings in which the runs differ</caption>")[2]
    assert re.findall("<code>(.*?)</code>", differing.partition("</table>")[0]) == ["anchor.awd"]


def test_with_out_all_lies_in_one_folder_a_run_counts_once_and_old_pictures_go(tmp_path):
    path, out = write_run(tmp_path / "run", steps=1, evaluations={}), tmp_path / "out"
    out.mkdir()
    for name in ("kl.png", "mine.png"):
        (out / name).write_bytes(PNG)

    report = write_report([path, tmp_path / "." / "run"], out)

    assert len(report.runs) == 1
    assert {*report.pictures, report.page, out / "mine.png"} == set(out.iterdir())
    assert not (path / "report.html").exists()


def test_matplotlib_is_left_as_it_was_and_pyplot_is_never_loaded():
    chart = Chart(title="a", label="a", lines=(Line(run=0, steps=(1,), values=(1.0,)),))

    with matplotlib.rc_context({"font.size": 31}):
        drawing = as_svg(chart)

        assert matplotlib.rcParams["font.size"] == 31
    assert drawing == as_svg(chart)
    assert "matplotlib.pyplot" not in sys.modules


def test_members_tried_at_sigmas_are_dots_over_boxes(page):
    said = page.drawing("4 members at each sigma, on 8 rows, mean reward by sigma. 0.001: median")
    (words,) = [attrs["aria-label"] for attrs in page.all("div") if "by sigma" in str(attrs)]

    assert "0.001: median 0.3, 4 values, mute." in words
    assert "0.01: median 0.35, 3 values, works, 1 overflow, chosen." in words
    assert words.endswith("0.1: 0 values, too large, 4 overflow.")
    assert all(f">{label}<" in said for label in ("0.001", "0.01", "0.1", "sigma"))
    boxes = Chart(
        title="t",
        label="mean reward",
        across="sigma",
        boxes=(Box(label="0.1", values=(1.0,)), Box(label="0.2", values=())),
    )
    assert as_png([boxes], ()).startswith(PNG)


def test_a_run_that_tried_no_sigma_has_no_such_section(tmp_path):
    path = write_run(tmp_path / "run")
    (path / "probe.json").unlink()

    assert "probe" not in [section.name for section in sections_of([read_run(path)])]


def test_a_damaged_probe_is_left_out_with_a_note(tmp_path):
    path = write_run(tmp_path / "run")
    (path / "probe.json").write_text('{"members": 4}')

    (note,) = read_run(path).notes
    assert note.endswith("probe.json cannot be read: rows is missing")


def test_what_the_first_steps_said_of_their_signal_is_on_the_page(tmp_path):
    path = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        line["signal"] = {"silent": 0.5, "reliability": -0.3, "chance": 0.2, "cut": 0.25 * number}
        line["signal"]["solved"] = None
    lines[2]["verdict"] = "none seen yet: more rows"
    lines[3]["verdict"] = "yes: of a later stage of a chain"
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    text = " ".join(" ".join(page_of(path, shown=["rewards"]).words).split())

    said = (
        "None seen yet: more rows (50% of rows told members nothing, 25% of answers were cut off)."
    )
    assert said in text
    assert {step.reliability for step in read_run(path).progress} == {0.0}
