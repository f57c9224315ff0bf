"""MLflow's face of a version: what `mlflow.pyfunc.load_model("models:/NAME@champion")` and `mlflow models serve` run.

Where the model reads one text per item: a list of texts, a Series, or a frame with the column `text`. Where it reads
pairs: a list of pairs, or a frame with the columns `text` and `text_pair`. What comes back is what the server answers,
a record per item (answers.py), by the server's own way: loaded, warmed and checked against the golden inputs.

MLflow itself turns what it is given into a frame and keeps as many columns as the signature has, from the left.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from serving.bundle import Item, ServingSpec
from serving.errors import BadArtifact, BadRequest
from serving.models import Models, load
from serving.registry import resolve

COLUMNS: Final = ("text", "text_pair")
_SHAPES: Final = {
    1: "a list of texts, or a frame with the column 'text'",
    2: "a list of pairs of texts, or a frame with the columns 'text' and 'text_pair'",
}


class Predictor:
    """What MLflow calls: as many answers as there are items, in their order."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def predict(self, model_input: Any) -> list[dict[str, object]]:
        """Raises MlflowException, which MLflow's server passes on to the client, with what is wrong with the input."""
        from mlflow.exceptions import INTERNAL_ERROR, MlflowException

        try:
            items = items_of(model_input, spec=self._models.current.spec)
            return self._models.answer(items).results if items else []
        except BadRequest as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        except BadArtifact as error:
            raise MlflowException(str(error), error_code=INTERNAL_ERROR) from error


def _load_pyfunc(path: str) -> Predictor:
    """What MLflow calls with the bundle's folder.

    Raises:
        BadArtifact: the bundle is altered, or not for this machine.
    """
    return Predictor(Models(load(resolve(path, tracking_uri=None, cache=Path(path)))))


def items_of(model_input: Any, *, spec: ServingSpec) -> list[Item]:
    """The items in whatever MLflow hands over.

    Raises:
        BadRequest: it holds something other than texts, as many of them per item as the model reads.
    """
    count = spec.texts_per_item
    items = [_item(row, index, count=count) for index, row in enumerate(_rows(model_input, count=count))]
    for index, item in enumerate(items):
        longest = max(len(text) for text in item)
        if longest > spec.max_characters:
            raise BadRequest(f"item {index} has {longest} characters, more than the {spec.max_characters} allowed")
    return items


def _rows(found: Any, *, count: int) -> Iterable[Any]:
    import pandas as pd

    if isinstance(found, dict):
        found = pd.DataFrame([found])
    if isinstance(found, pd.DataFrame):
        return _of_frame(found, count=count)
    if isinstance(found, str):
        return [found]
    rows = found.tolist() if hasattr(found, "tolist") else found  # arrays and Series
    if not isinstance(rows, list | tuple):
        raise BadRequest(f"the input is {type(found).__name__}; send {_SHAPES[count]}")
    return rows


def _of_frame(frame: Any, *, count: int) -> Iterable[Any]:
    """By the columns' names; by their places where they have none, as MLflow makes frames of lists."""
    wanted, names = COLUMNS[:count], list(frame.columns)
    if not set(wanted) <= set(names):
        if names != list(range(count)):
            told = ", ".join(repr(name) for name in names) or "none"
            raise BadRequest(f"the columns are {told}; send {_SHAPES[count]}")
        wanted = tuple(names)
    columns = [_unfolded(frame[name].tolist()) for name in wanted]
    if len({len(column) for column in columns}) > 1:
        raise BadRequest(f"'text' and 'text_pair' differ in length; send {_SHAPES[count]}")
    return columns[0] if count == 1 else list(zip(*columns, strict=True))


def _unfolded(column: list[Any]) -> list[Any]:
    """MLflow makes one row of lists of what comes as {"text": [...]}."""
    return column[0] if len(column) == 1 and isinstance(column[0], list) else column


def _item(row: Any, index: int, *, count: int) -> Item:
    texts: Sequence[Any] = (row,) if isinstance(row, str) or not isinstance(row, list | tuple) else tuple(row)
    if len(texts) != count:
        raise BadRequest(f"item {index} has {len(texts)} text(s); this model takes {count} per item")
    for text in texts:
        if not isinstance(text, str):
            raise BadRequest(f"item {index} holds {text!r:.50}, which is no text; send {_SHAPES[count]}")
    return tuple(texts)
