import pytest

from pipeline.data.prose import docstring_paragraphs, is_english_sentence


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Return the :class:`~lib.core.Tensor` of this module.", "Return the Tensor of this module."),
        ("Return the :py:func:`sum of values <lib.sum>` in the module.", "Return the sum of values in the module."),
        (
            "Use ``axis`` and `dtype` with the *first* and **last** value.",
            "Use axis and dtype with the first and last value.",
        ),
        ("See the `user guide <https://x.org/a>`_ for all the details.", "See the user guide for all the details."),
        ("See the [user guide](https://x.org/a) for all the details.", "See the user guide for all the details."),
        ("Compute the <b>mean</b> of the values [1]_ in this array.", "Compute the mean of the values in this array."),
        ("It is used as in the\nfollowing example of a call::", "It is used as in the following example of a call:"),
    ],
)
def test_markup_is_taken_off(raw: str, clean: str) -> None:
    assert docstring_paragraphs(raw).first == (clean,)


def test_only_prose_is_kept() -> None:
    docstring = """Return the number of nodes in the graph.

    The graph may be directed or not, and it is not changed.

        Indented text is code or a quotation of some kind.

    - A list item that has quite enough words in it to count.

    >>> the_doctest is not prose even if it has many of the words

    .. note:: A directive is not prose either, and it is left out.

    Parameters
    ----------
    graph : Graph
        The graph that is to be counted by this function.

    A paragraph in the parameters is a part of their description.

    Notes
    -----
    The notes are prose again and they are worth to be read.

    Args:
        graph: the graph that is to be counted by this function

    :param graph: the graph that is to be counted by this function
    """

    found = docstring_paragraphs(docstring)

    assert found.first == ("Return the number of nodes in the graph.",)
    assert found.rest == (
        "The graph may be directed or not, and it is not changed.",
        "The notes are prose again and they are worth to be read.",
    )


def test_a_second_paragraph_does_not_stand_in_for_a_first_that_is_not_prose() -> None:
    found = docstring_paragraphs("graph(a, b) -> c\n\nReturn the number of nodes in the graph.")

    assert found.first == ()
    assert found.rest == ("Return the number of nodes in the graph.",)


@pytest.mark.parametrize(
    "text",
    [
        "Too short to be kept.",
        "the " * 61,
        "Gibt die Anzahl der Knoten im Graphen zurück.",
        "Berechne Anzahl aller Knoten eines Graphen schnell",
        "Copyright of the authors, and all of it is theirs.",
        "Return a value x = {a: b} of the given thing.",
        "1 2 3 4 5 6 7 8 9 of the",
    ],
)
def test_what_is_not_an_english_sentence_of_6_to_60_words_is_refused(text: str) -> None:
    assert not is_english_sentence(text)
