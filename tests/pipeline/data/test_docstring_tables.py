"""Every kind of task's columns from docstrings: what is code, which text stands beside which, and how near it is."""

from typing import Any

from pipeline.data.docstring_sets import Labelled
from pipeline.data.docstring_tables import docstring_table


def example(number: int, label: str, package: str) -> Labelled:
    return Labelled(f"Return the part number {number} of it.", label, f"{label}.{package}")


def columns(examples: list[Labelled]) -> dict[str, list[Any]]:
    table = docstring_table(examples, split="dev")
    assert table.where == "dev data (docstrings)"
    return {name: list(table.column(name)) for name in table.columns}


def test_words_of_code_are_tagged_and_make_a_topic() -> None:
    text = "Like os.path.join, `x`, is_fine, _hidden_one, camelCase and call(x): see this."
    found = columns([Labelled(text, "apples"), Labelled("Nothing of 3.5 Sorts, e.g. here.", "carts")])

    assert [" ".join(words) for words in found["tokens"]] == [
        "Like os.path.join , `x` , is_fine , _hidden_one , camelCase and call(x) : see this .",
        "Nothing of 3.5 Sorts , e.g . here .",
    ]
    tags = ["B-code" if place in (1, 3, 5, 7, 9, 11) else "O" for place in range(16)]
    assert found["tags"] == [tags, ["O"] * 9]
    assert found["topics"] == [["apples", "code"], ["carts"]]


def test_the_label_is_the_library() -> None:
    found = columns([example(1, "apples", "a"), example(2, "carts", "b")])

    assert found["label"] == ["apples", "carts"]
    assert found["text"] == ["Return the part number 1 of it.", "Return the part number 2 of it."]
    assert found["topics"] == [["apples"], ["carts"]]


def test_a_third_of_the_pairs_each_is_of_one_package_of_one_library_and_of_two() -> None:
    examples = [example(n, ("apples", "carts")[n % 2], "ab"[n // 2 % 2]) for n in range(60)]
    by_text = {each.text: each for each in examples}

    found = columns(examples)

    others = [by_text[text] for text in found["other"]]
    near = [
        1.0 if one.package == other.package else 0.5 if one.label == other.label else 0.0
        for one, other in zip(examples, others, strict=True)
    ]
    assert found["score"] == near
    assert sorted(near) == [0.0] * 20 + [0.5] * 20 + [1.0] * 20
    assert all(one.text != other.text for one, other in zip(examples, others, strict=True))
    assert len(set(found["other"])) > 30, "not always the same few"


def test_packages_of_one_name_in_two_libraries_are_two() -> None:
    examples = [Labelled("Return the part of it.", "apples", "core"), Labelled("Return it all.", "carts", "core")]
    assert columns(examples)["score"] == [0.0, 0.0]


def test_the_order_of_the_examples_changes_no_pair() -> None:
    examples = [example(n, ("apples", "carts")[n % 2], "ab"[n // 2 % 2]) for n in range(20)]
    one, other = columns(examples), columns(examples[::-1])
    assert dict(zip(one["text"], one["other"], strict=True)) == dict(zip(other["text"], other["other"], strict=True))


def test_where_none_is_as_near_as_wanted_another_stands_in() -> None:
    """Libraries of one package have no pair of two packages."""
    examples = [example(n, ("apples", "carts", "drums")[n % 3], "a") for n in range(12)]

    found = columns(examples)

    assert set(found["score"]) == {0.0, 1.0}
    assert all(text != other for text, other in zip(found["text"], found["other"], strict=True))
