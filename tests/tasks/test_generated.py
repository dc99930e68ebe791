from esft.tasks.generated import GeneratedRows


def test_rows_come_with_where_they_are_and_are_their_own_at_every_reading():
    made = [{"count": 0}, {"count": 1}]
    rows = GeneratedRows(name="generated counts", make=lambda split: made)

    for _ in range(2):
        read = list(rows.rows("train"))
        assert read == [
            ("generated counts, train, row 1", {"count": 0}),
            ("generated counts, train, row 2", {"count": 1}),
        ]
        read[0][1]["count"] = 9
