import json
import webbrowser

import pytest
from command import Started, esft
from report_runs import write_eval, write_run


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The folder runs/ with two runs."""
    monkeypatch.chdir(tmp_path)
    for name in ("with-awd", "without-awd"):
        awd = float(name == "with-awd")
        write_run(tmp_path / "runs" / name, steps=2, evaluations={0: 0.9}, anchor_awd=awd)
    return tmp_path / "runs"


class Browser(webbrowser.BaseBrowser):
    """Keeps what it is asked to open."""

    def __init__(self):
        super().__init__("kept")
        self.opened = []

    def open(self, url, new=0, autoraise=True):
        self.opened.append(url)
        return True


def test_the_page_is_written_and_opened_and_what_should_be_known_of_it_goes_to_stderr(runs):
    write_eval(runs / "with-awd", journal="0")
    browser = Browser()
    webbrowser.register("kept", None, browser, preferred=True)

    done = esft("report", "with-awd", "--open")

    assert done.exit_code == 0, done.stderr
    assert done.stdout == "runs/with-awd/report.html\n"
    assert (runs / "with-awd" / "report.html").exists()
    assert (runs / "with-awd" / "report" / "tasks.png").exists()
    assert "with-awd: eval.json is ignored" in done.stderr
    assert browser.opened == [(runs / "with-awd" / "report.html").as_uri()]


def test_several_runs_go_to_a_folder_of_their_own_with_the_numbers_as_json(runs):
    done = esft("report", "with-awd", "without-awd", "--json")

    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["page"] == "report/report.html"
    assert not (runs / "with-awd" / "report.html").exists()
    assert [run["name"] for run in found["runs"]] == ["with-awd", "without-awd"]
    assert [run["decay"]["awd"] for run in found["runs"]] == [1.0, 0.0]
    assert found["runs"][0]["tasks"][1]["evaluations"][0]["accuracy"] == 0.9


def test_a_report_that_cannot_be_made_is_an_error_without_traceback(runs):
    (runs / "file").write_text("")

    nosuch = esft("report", "nosuch")
    below = esft("report", "with-awd", "--out", runs / "file" / "below")

    assert nosuch.exit_code == below.exit_code == 1
    assert "nosuch is not a run" in nosuch.stderr
    assert "Hint: esft runs lists them" in nosuch.stderr
    assert "cannot be written" in below.stderr


def test_two_reports_of_one_run_at_once_leave_one_whole_page(runs):
    command, folder = ("report", "with-awd"), runs / "with-awd"
    both = [Started(runs.parent, *command) for _ in range(2)]
    pages = [process.communicate()[0] for process in both]

    assert pages == ["runs/with-awd/report.html\n"] * 2
    page = (folder / "report.html").read_text()
    assert page.endswith("</html>")
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    assert esft("report", "with-awd").exit_code == 0
    assert (folder / "report.html").read_text() == page
