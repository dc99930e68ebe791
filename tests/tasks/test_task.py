from esft.tasks.task import Option, Question, Row, ask, choice_row, made_id, text_options


def row_of(*contents, options=()):
    messages = tuple({"role": "user", "content": content} for content in contents)
    return Row(id="r", questions=(Question(messages=messages),), answer="yes", options=options)


def options_of(context, *texts):
    return tuple(Option(context=context, continuation=f" {text}", text=text) for text in texts)


def test_the_key_is_a_sha256_of_what_is_asked_but_for_case_and_spacing():
    # sha256 of "is ice cold?", as printed by sha256sum.
    key = "11235a5b571bd5b8408d15a40c08ed81d9c49742a74956a416c1ab02c141a9d7"

    assert row_of("Is ice cold?").key == row_of("is  ICE cold?\n").key == key
    assert row_of("Is fire cold?").key != key


def test_the_key_of_many_questions_knows_all_but_their_order():
    def asking(*texts):
        return Row(id="r", questions=tuple(map(ask, texts)))

    both = asking("Is ice cold?", "Is fire cold?")

    assert both.key == asking("Is fire cold?", "Is ice cold?").key
    assert both.key not in (asking("Is ice cold?").key, asking("Is fire cold?").key)


def test_the_key_of_many_contexts_is_the_same_on_every_machine():
    # sha256 of "a" to "e" and "yes" with a zero byte between them, as printed by sha256sum.
    options = [option for context in "ecadb" for option in options_of(context, "yes")]

    assert row_of("m", options=tuple(options)).key == (
        "2096e3c84ab30f01d55065a572f6272da601087748d879c561945b571cc20665"
    )


def test_the_key_of_a_row_with_options_knows_neither_their_order_nor_their_wording():
    row = row_of("m", options=options_of("Q", "sun", "air"))
    reordered = row_of("n", options=options_of("Q", "air", "sun"))
    reworded = row_of("o", options=options_of("Q", "the sun", "air"))
    another = row_of("m", options=options_of("R", "sun", "air"))

    assert row.key == reordered.key == reworded.key
    assert row.key != another.key


def test_the_prompt_has_all_messages_as_plain_text():
    (question,) = row_of("Be brief.", "Is ice cold?").questions

    assert question.prompt == "Be brief.\n\nIs ice cold?\nAnswer:"


def test_a_made_id_tells_what_is_asked_apart():
    ids = {made_id("piqa", "ab"), made_id("piqa", "a", "b"), made_id("piqa", "b", "a")}

    assert len(ids) == 3
    assert all(len(made) == len("piqa-") + 12 for made in ids)


def test_space_around_an_option_is_scored_but_not_listed():
    options = text_options("Which are best?", [" dry palms", "wet palms "], "AB")

    row = choice_row(id="r", asked="Which are best?", options=options, gold=1)

    assert "\nA. dry palms\nB. wet palms\n\n" in row.questions[0].messages[0]["content"]
    assert [option.continuation for option in row.options] == ["  dry palms", " wet palms "]
    assert [option.divisor for option in row.options] == [10, 10]


def test_a_reader_is_shown_the_whole_question_with_an_answer_that_is_right():
    options = text_options("Which are best?", ["dry palms", "wet palms"], "AB")
    chosen = choice_row(id="r", asked="Which are best?", options=options, gold=1).shown
    spelt = Row(id="r", questions=(ask("a?", reference="1"), ask("b?", reference="2")), answer="3")

    assert chosen["wanted"] == "wet palms"
    assert chosen["question"].startswith("Which are best?\n\nA. dry palms")
    assert spelt.shown == {"question": "a?\n\nb?", "wanted": "1\n\n2"}
    assert row_of("Be brief.", "Is ice cold?").shown == {
        "question": "Be brief.\n\nIs ice cold?",
        "wanted": "yes",
    }
