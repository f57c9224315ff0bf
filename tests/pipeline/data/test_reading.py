"""The names of coded labels, as data sets of the hub carry them."""

from typing import Any

import datasets
import pytest

from pipeline.data.reading import dataset_table

TAGS = datasets.ClassLabel(names=["O", "B-x", "I-x"])


@pytest.mark.parametrize("tags", [datasets.List(TAGS), datasets.LargeList(TAGS), datasets.Sequence(TAGS), [TAGS]])
def test_the_names_of_coded_labels_are_found_in_lists_too(tags: Any) -> None:
    features = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "tags": tags,
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "score": datasets.Value("float32"),
        }
    )
    rows = {"tokens": [["a", "b"]], "tags": [[1, 2]], "label": [1], "score": [0.5]}

    table = dataset_table(datasets.Dataset.from_dict(rows, features=features), where="train")

    assert table.class_names == {"tags": ("O", "B-x", "I-x"), "label": ("no", "yes")}
    assert table.column("tags") == [[1, 2]]
