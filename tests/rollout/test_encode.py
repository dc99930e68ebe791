import pytest
from tiny_models import tiny_tokenizer

from esft.errors import TaskError
from esft.rollout.encode import encode_option
from esft.tasks.task import Option


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation():
    tokenizer = tiny_tokenizer()

    spaced = encode_option(tokenizer, Option(context="a b ", continuation="c", text="c"))

    assert spaced == encode_option(tokenizer, Option(context="a b", continuation=" c", text="c"))


def test_context_and_continuation_are_tokenized_together():
    tokenizer = tiny_tokenizer()  # it has one token for "ab"

    option = encode_option(tokenizer, Option(context="xa", continuation="b c", text="b c"))

    # "xa" has two tokens, "xab c" four: the continuation is what lies after the first two.
    assert option.targets == tuple(tokenizer("xab c")["input_ids"][2:])


def test_an_option_without_tokens_of_its_own_is_refused():
    with pytest.raises(TaskError, match="expected at least one each"):
        encode_option(tiny_tokenizer(), Option(context="abc", continuation="", text=""))
