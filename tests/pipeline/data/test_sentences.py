"""Where one sentence ends and the next begins."""

import pytest

from pipeline.data.sentences import sentences


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One ends here. Another follows! A third? Yes", ["One ends here.", "Another follows!", "A third?", "Yes"]),
        ('She said "go." He went.', ['She said "go."', "He went."]),
        ("It is 3.5 m long, e.g. here, and v. small.", ["It is 3.5 m long, e.g. here, and v. small."]),
        ("这是一句。这是另一句！", ["这是一句。", "这是另一句！"]),  # noqa: RUF001
        ("Это одно. Это другое.", ["Это одно.", "Это другое."]),
        ("  alone  ", ["alone"]),
        ("   ", []),
    ],
)
def test_a_text_is_cut_where_a_sentence_ends(text: str, found: list[str]) -> None:
    assert sentences(text) == found
