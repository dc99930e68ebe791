import pytest

from esft.errors import TaskError
from esft.tasks.generated import GeneratedRows


def counting_rows(**sizes):
    return GeneratedRows(
        name="generated counts",
        make=lambda split: ({"count": number} for number in range(sizes[split])),
        splits=tuple(sizes),
    )


def test_rows_come_with_what_is_generated_the_split_and_their_number_at_every_reading():
    rows = counting_rows(train=2)

    for _ in range(2):
        assert list(rows.rows("train")) == [
            ("generated counts, train, row 1", {"count": 0}),
            ("generated counts, train, row 2", {"count": 1}),
        ]


def test_another_split_is_refused_with_those_there_are():
    with pytest.raises(
        TaskError, match="generated counts have no split dev, they have: train, test"
    ) as caught:
        list(counting_rows(train=1, test=1).rows("dev"))

    assert caught.value.hint == "name a folder with other rows as --data-dir"


def test_a_row_may_be_changed_without_changing_the_next_reading():
    made = [{"count": 0}]
    rows = GeneratedRows(name="counts", make=lambda split: made, splits=("train",))

    next(rows.rows("train"))[1]["count"] = 9

    assert next(rows.rows("train"))[1] == {"count": 0}
