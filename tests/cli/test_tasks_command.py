import json

import pytest
from command import esft

from esft.tasks.registry import get_task, task_names


def test_tasks_are_listed_a_line_each_by_whether_they_need_the_hub(tmp_path, monkeypatch):
    monkeypatch.delenv("ESFT_DATA_DIR", raising=False)
    (tmp_path / "arc_easy.test.jsonl").write_text("")

    plain, with_rows = esft("tasks"), esft("tasks", "--data-dir", tmp_path)

    hub = [name for name in task_names() if get_task(name).hub is not None]
    others = [name for name in task_names() if name not in hub]
    found = grouped(plain.stdout)
    assert list(found.values()) == [others, hub]
    assert [heading.split(":")[0] for heading in found] == ["Without network", "From the hub"]
    of_folder = grouped(with_rows.stdout)[f"Without network: rows in {tmp_path}"]
    assert of_folder == ["arc-easy"]
    assert all(len(line) <= 80 for line in plain.stdout.splitlines())


def grouped(text):
    """The names of the tasks by the heading above them, which may take several lines."""
    found, heading = {}, []
    for line in text.splitlines()[:-1]:
        if line.startswith("  "):
            found.setdefault("".join(heading), []).append(line.split()[0])
        else:
            heading = [line] if line.startswith(("Without", "From")) else [*heading, " ", line]
    return found


def test_all_tasks_are_told_as_json_with_scoring_rows_source_and_licence():
    listed = json.loads(esft("tasks", "--json").stdout)

    assert [task["name"] for task in listed] == task_names()
    assert all(task["grading"] and task["rows"] and task["max_new_tokens"] for task in listed)
    assert all(task["summary"] and task["source"] and task["licence"] for task in listed)


def test_a_task_shows_two_rows_as_a_model_sees_them_the_reference_and_the_grading():
    done, record = esft("tasks", "countdown"), esft("tasks", "countdown", "--json")

    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("\nRow ") == 2
    record = json.loads(record.stdout)
    flat = " ".join(done.stdout.split())
    for (question,) in (row["questions"] for row in record["first"]):
        assert " ".join(question["messages"][0]["content"].split()) in flat
        assert " ".join(question["reference"].split()) in flat
        assert question["opening"] == "<think>"
    assert " ".join(get_task("countdown").grading.split()) in flat
    assert "every answer begins with: <think>" in flat
    assert "4,000 in generated countdown puzzles, split train" in flat
    assert (record["name"], record["total"]) == ("countdown", 4000)


@pytest.mark.parametrize("name", ["arc", "winogrande"])
def test_the_options_of_a_choice_task_are_shown_with_their_context(name, tmp_path):
    task, columns = get_task(name), COLUMNS[name]
    (tmp_path / f"{task.file}.validation.jsonl").write_text(json.dumps(columns) + "\n")

    done = esft("tasks", name, "--data-dir", tmp_path)

    assert done.exit_code == 0, done.stderr
    option = task.read(columns).options[task.read(columns).gold]
    flat = " ".join(done.stdout.split())
    assert " ".join(option.context.split()) in flat
    assert f"* {' '.join(option.continuation.split())}" in flat or (
        f"* {option.context} |{option.continuation}" in flat
    )
    assert "by generate, user:" in flat


def test_ones_own_file_is_shown_too(tmp_path):
    file = tmp_path / "my.jsonl"
    file.write_text('{"prompt": "1 + 1?", "answer": [2, "two"]}\n' * 2)

    done = esft("tasks", file, "--grader", "exact")

    assert done.exit_code == 0, done.stderr
    assert "also right:\n    two" in done.stdout
    assert "2 in" in done.stdout


def test_a_task_is_shown_by_the_rows_it_has_and_all_of_them_are_read(tmp_path):
    (tmp_path / "piqa.validation.jsonl").write_text(f"{json.dumps(COLUMNS['piqa'])}\n" * 3 + "{}\n")

    done = esft("tasks", "piqa", "--data-dir", tmp_path)

    assert done.exit_code == 1
    assert "piqa.validation.jsonl line 4" in done.stderr


def test_an_unknown_task_and_a_folder_without_rows_say_how_to_go_on(tmp_path):
    unknown = esft("tasks", "gsm9k")
    empty = esft("tasks", "gsm8k", "--data-dir", tmp_path)

    assert unknown.exit_code == 2
    assert "did you mean gsm8k" in unknown.stderr
    assert empty.exit_code == 1
    assert "leave --data-dir and ESFT_DATA_DIR out" in empty.stderr


def test_a_row_without_a_reference_says_so(tmp_path):
    row = {"nums": [2, 3], "target": 5}
    (tmp_path / "countdown_tasks_3to4.train.jsonl").write_text(json.dumps(row) + "\n")

    done = esft("tasks", "countdown-3to4", "--data-dir", tmp_path)

    assert "reference answer:\n    (none)" in done.stdout


COLUMNS = {
    "arc": {
        "id": "q1",
        "question": "What melts?",
        "choices": {"text": ["ice", "smoke"], "label": ["A", "B"]},
        "answerKey": "A",
    },
    "winogrande": {
        "sentence": "The cup did not fit the bag because the _ was too big.",
        "option1": "cup",
        "option2": "bag",
        "answer": "1",
    },
    "piqa": {"goal": "Dry a cup", "sol1": "Use a towel.", "sol2": "Use a hose.", "label": 0},
}
