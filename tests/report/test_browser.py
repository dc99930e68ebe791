"""The page as a browser shows it: on a phone, in light and in dark, with nothing to complain of."""

import json
import re
import shutil
import subprocess

import pytest
from report_runs import write_eval, write_run

from esft.report.charts import NAMES, sections_of
from esft.report.draw import DARK, LIGHT
from esft.report.read import named_apart, read_run
from esft.report.write import make_page

NAMES_OF_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES_OF_CHROMIUM)), None)
WIDTH = 400  # of a phone

# A frame has the scheme that its style asks for. What was found becomes the title.
FRAMES = """<!DOCTYPE html><body><script>
const found = {};
function look(scheme) {
  return new Promise(done => {
    const frame = document.createElement("iframe");
    frame.style = `width: 400px; height: 800px; border: 0; color-scheme: ${scheme}`;
    frame.onload = () => {
      const page = frame.contentDocument, style = frame.contentWindow.getComputedStyle;
      page.querySelectorAll("details").forEach(part => part.open = true);
      const all = [...page.querySelectorAll("body *")];
      found[scheme] = {
        paper: style(page.body).backgroundColor,
        line: style(page.querySelector("svg [style*='stroke: var(--run-1)']")).stroke,
        opened: page.querySelectorAll(".long div").length,
        width: page.documentElement.scrollWidth,
        wider: all.filter(one => one.getBoundingClientRect().right > 400).map(one => one.outerHTML),
      };
      done();
    };
    frame.src = "report.html";
    document.body.append(frame);
  });
}
look("light").then(() => look("dark")).then(() => document.title = JSON.stringify(found));
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_on_a_phone_nothing_is_wider_than_the_window_in_both_schemes_without_an_error(tmp_path):
    names = ("one", "a-run-with-a-long-name-that-has-no-space-to-break-it-at-" + "x" * 100)
    runs = [write_run(tmp_path / name) for name in names]  # called so: they differ in nothing
    write_eval(runs[0])
    numbers = named_apart([read_run(run) for run in runs])
    page = make_page(numbers, sections_of(numbers), dict.fromkeys(NAMES, "-"))
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    (tmp_path / "frames.html").write_text(FRAMES)

    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    options += ["--allow-file-access-from-files", "--enable-logging=stderr"]
    options += ["--virtual-time-budget=20000", "--dump-dom", (tmp_path / "frames.html").as_uri()]
    shown = subprocess.run([CHROMIUM, *options], capture_output=True, text=True, timeout=60)

    assert "CONSOLE" not in shown.stderr
    found = json.loads(re.search("<title>(.*)</title>", shown.stdout).group(1))
    for scheme, palette in (("light", LIGHT), ("dark", DARK)):
        seen = found[scheme]
        assert seen["paper"] == rgb(palette.paper)
        assert seen["line"] == rgb(palette.runs[1])
        assert seen["opened"]
        assert seen["width"] <= WIDTH
        assert seen["wider"] == []


def rgb(colour):
    return f"rgb({', '.join(str(byte) for byte in bytes.fromhex(colour[1:]))})"
