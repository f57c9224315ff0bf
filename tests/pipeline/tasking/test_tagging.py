"""A tag for every word: both formats of data, what can be wrong with them, first sub-tokens, and entities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seqeval.metrics import f1_score
from seqeval.metrics.sequence_labeling import get_entities
from taskdata import load, refused, spec_of, task_over, write
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pipeline import quality
from pipeline.errors import BadArtifact, BadRequest
from pipeline.tasking.base import Places, Split, TaskData
from pipeline.tasking.criteria import IGNORED
from pipeline.tasking.fitted import Fitted
from pipeline.tasking.tagging import Tagging
from serving.answers import probabilities, results
from serving.spans import words_of

NAMES = ("O", "B-city", "I-city", "B-name", "I-name")
ANN = "Ann Lee was in Bonn, not in New York."
ANN_SPANS = [
    {"start": 0, "end": 7, "label": "name"},
    {"start": 15, "end": 19, "label": "city"},
    {"start": 28, "end": 36, "label": "city"},
]
ANN_TAGS = ("B-name", "I-name", "O", "O", "B-city", "O", "O", "O", "B-city", "I-city", "O")


def tokenizer() -> Tokenizer:
    """WordPiece as BERT's, which drops what is invisible; all words but `ann` and `bonn` are spelled."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "ann", "bonn", ",", ".", *letters, *(f"##{one}" for one in letters))
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    found = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    found.normalizer, found.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    found.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    return found


def of_words(folder: Path, tokens: Sequence[Any], tags: Sequence[Any], **settings: Any) -> Any:
    """A task whose train and dev are these rows."""
    path = write(folder, "train", tokens=tokens, tags=tags)
    return task_over("token-classification", {"train": path, "dev": path}, **settings)


def of_spans(folder: Path, texts: Sequence[Any], spans: Sequence[Any], **settings: Any) -> Any:
    path = write(folder, "train", text=texts, spans=spans)
    paths = {"train": path, "dev": path}
    return task_over("token-classification", paths, text="text", label="spans", **settings)


def split_of(*rows: tuple[str, Sequence[int]]) -> Split:
    """Texts as the server cuts them into words, each with a tag."""
    return Split(
        tuple((text,) for text, _ in rows), tuple(Tagging(tuple(words_of(text)), tuple(tags)) for text, tags in rows)
    )


def message_of(folder: Path, task: Any, error: type[Exception] = BadArtifact) -> str:
    return refused(error, lambda: load(task, folder)).replace(f"train data ({folder}/train.jsonl)", "TRAIN")


# -- both formats ------------------------------------------------------------------------------------------------------


def test_words_with_tags_are_joined_by_blanks(tmp_path: Path) -> None:
    task = of_words(
        tmp_path, [["Ann", "Lee", "left", "Bonn"], ["so", "."]], [["B-name", "I-name", "O", "B-city"], ["O", "O"]]
    )

    data = load(task, tmp_path)

    assert data.label_names == NAMES
    assert data.train.items == (("Ann Lee left Bonn",), ("so .",))
    assert data.train.labels == (
        Tagging(((0, 3), (4, 7), (8, 12), (13, 17)), (3, 4, 0, 1)),
        Tagging(((0, 2), (3, 4)), (0, 0)),
    )
    assert task.label_counts(data.train, data.label_names) == {"city": 1, "name": 1}
    assert (task.head(NAMES).num_outputs, task.head(NAMES).optimum_task) == (5, "token-classification")


def test_spans_of_text_tag_the_words_that_the_server_cuts(tmp_path: Path) -> None:
    task = of_spans(tmp_path, [ANN, "no one"], [ANN_SPANS[::-1], []])

    data = load(task, tmp_path)

    assert data.label_names == NAMES
    assert data.train.items == ((ANN,), ("no one",))
    first, second = data.train.labels
    assert first.words == tuple(words_of(ANN))
    assert tuple(NAMES[tag] for tag in first.tags) == ANN_TAGS
    assert second.tags == (0, 0)


def test_two_spans_of_one_kind_side_by_side_stay_two(tmp_path: Path) -> None:
    spans = [{"start": 0, "end": 3, "label": "name"}, {"start": 4, "end": 7, "label": "name"}]

    data = load(of_spans(tmp_path, ["Ann Lee"], [spans]), tmp_path)

    assert data.train.labels[0].tags == (1, 1)


def test_types_given_in_the_config_decide_the_order(tmp_path: Path) -> None:
    task = of_words(tmp_path, [["Ann", "left", "Bonn"]], [["B-name", "O", "B-city"]], labels=["name", "date", "city"])

    data = load(task, tmp_path)

    assert data.label_names == ("O", "B-name", "I-name", "B-date", "I-date", "B-city", "I-city")
    assert data.train.labels[0].tags == (1, 0, 5)
    assert task.label_counts(data.train, data.label_names) == {"name": 1, "date": 0, "city": 1}


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (["B-name/B-city", "O/B-city", "B-city"], ["B-name", "O", "B-city"]),  # the first of equals
        (["B-name", "I-city/I-name", "I-city/I-name"], ["B-name", "I-name", "I-name"]),  # goes on as it began
        (["B-name/B-city", "I-city", "O"], ["B-city", "I-city", "O"]),  # what fits both words
        (["B-name/B-city/O", "I-name/I-city", "I-city"], ["B-city", "I-city", "I-city"]),  # what fits most
        (["B-city", "I-name/B-name", "I-name"], ["B-city", "B-name", "I-name"]),  # a beginning before a stray end
        (["B-city", "I-name/B-city", "O"], ["B-city", "B-city", "O"]),
        (["I-name/I-city", "I-city", "B-name"], ["I-name", "I-city", "B-name"]),  # as it is without alternatives
        (["B-city", "B-name/I-city", "I-city"], ["B-city", "B-name", "I-city"]),  # the first says where one begins
    ],
)
def test_where_annotators_could_not_agree_an_entity_has_the_type_that_fits_its_words(
    told: list[str], wanted: list[str], tmp_path: Path
) -> None:
    types = ["city", "name"]
    task = of_words(tmp_path, [["New", "York", "Times"]], [told], alternatives="/", labels=types)
    (tmp_path / "agreed").mkdir()
    agreed = of_words(tmp_path / "agreed", [["New", "York", "Times"]], [wanted], labels=types)

    assert load(task, tmp_path).train.labels == load(agreed, tmp_path).train.labels


def test_coded_tags_have_the_names_that_the_data_gives_them(tmp_path: Path) -> None:
    import datasets

    codes = ["O", "B-name", "I-name", "B-city", "I-city"]
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "tags": datasets.List(datasets.ClassLabel(names=codes))}
    )
    rows = {"tokens": [["Ann", "Lee", "left", "Bonn"]], "tags": [[1, 2, 0, 3]]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "a.parquet"))
    path = str(tmp_path / "a.parquet")

    data = load(task_over("token-classification", {"train": path, "dev": path}), tmp_path)

    assert [data.label_names[tag] for tag in data.train.labels[0].tags] == ["B-name", "I-name", "O", "B-city"]


# -- what can be wrong with data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "tags", "said"),
    [
        (["a", "b"], ["O"], "2 words and 1 tags: each word needs one"),
        (["a", "b"], None, "2 words and None tags: each word needs one"),
        ([], [], "the text is empty or has an empty word: remove it"),
        (["a", " "], ["O", "O"], "the text is empty or has an empty word: remove it"),
        (["a", None], ["O", "O"], "the text is empty or has an empty word: remove it"),
        (["a"], ["S-x"], "the tag is 'S-x': tags are O, B-type and I-type (IOB2); convert the data"),
        (["a"], ["B-"], "the tag is 'B-': tags are O, B-type and I-type (IOB2); convert the data"),
        (["a"], ["name"], "the tag is 'name': tags are O, B-type and I-type (IOB2); convert the data"),
        (["a"], [None], "the tag is None: tags are O, B-type and I-type (IOB2); convert the data"),
    ],
)
def test_a_row_of_words_that_does_not_fit_its_tags_is_a_bad_artifact(
    tmp_path: Path, tokens: Any, tags: Any, said: str
) -> None:
    task = of_words(tmp_path, [["Ann"], tokens], [["B-name"], tags])

    assert message_of(tmp_path, task) == f"TRAIN, row 2: {said}"


def test_codes_without_names_are_a_bad_artifact(tmp_path: Path) -> None:
    assert message_of(tmp_path, of_words(tmp_path, [["a", "b"]], [[0, 3]])) == (
        "TRAIN, row 1: the tag is 0, and the data names 0 tags: give tags as text"
    )


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (
            {"start": 0, "end": 6, "label": "name"},
            "the entity 'Ann Le' (characters 0 to 6) does not begin and end where words do: words there are 'Ann', "
            "'Lee'; move its bounds, or part the words by blanks",
        ),
        (
            {"start": 3, "end": 7, "label": "name"},
            "the entity ' Lee' (characters 3 to 7) does not begin and end where words do: words there are 'Lee'; move "
            "its bounds, or part the words by blanks",
        ),
        (
            {"start": 3, "end": 4, "label": "name"},
            "the entity ' ' (characters 3 to 4) does not begin and end where words do: words there are none; move its "
            "bounds, or part the words by blanks",
        ),
        (
            {"start": 30, "end": 38, "label": "name"},
            "a span from 30 to 38 is outside its text of 37 characters",
        ),
        ({"start": 4, "end": 4, "label": "name"}, "a span from 4 to 4 is outside its text of 37 characters"),
        ({"start": -3, "end": 4, "label": "name"}, "a span from -3 to 4 is outside its text of 37 characters"),
        (
            {"start": 0, "end": 3, "label": ""},
            "a span is {'start': 0, 'end': 3, 'label': ''}: expected start and end (characters) and label",
        ),
        (
            {"start": None, "end": 3, "label": "name"},
            "a span is {'start': None, 'end': 3, 'label': 'name'}: expected start and end (characters) and label",
        ),
        (
            {"start": 15, "end": 19, "label": "place"},
            "the entity 'Bonn' overlaps another: a word has one tag; keep one",
        ),
    ],
)
def test_a_span_that_does_not_fit_the_words_is_a_bad_artifact(tmp_path: Path, span: dict[str, Any], said: str) -> None:
    task = of_spans(tmp_path, [ANN, ANN], [ANN_SPANS, [ANN_SPANS[1], span]])

    assert message_of(tmp_path, task) == f"TRAIN, row 2: {said}"


def test_a_text_without_its_list_of_spans_is_a_bad_artifact(tmp_path: Path) -> None:
    assert message_of(tmp_path, of_spans(tmp_path, [ANN, ANN], [ANN_SPANS, None])) == (
        "TRAIN, row 2: the spans are None: expected a list of {start, end, label}"
    )


def test_an_empty_text_is_a_bad_artifact(tmp_path: Path) -> None:
    assert message_of(tmp_path, of_spans(tmp_path, [ANN, " \t"], [ANN_SPANS, []])) == (
        "TRAIN, row 2: the text is empty: remove the row or fill it in"
    )


def test_a_column_of_neither_texts_nor_words_is_a_bad_request(tmp_path: Path) -> None:
    assert message_of(tmp_path, of_words(tmp_path, [3], [["O"]]), BadRequest) == (
        "TRAIN, row 1: column 'tokens' holds int values, not text or lists of words"
    )


def test_data_without_an_entity_is_a_bad_artifact(tmp_path: Path) -> None:
    assert message_of(tmp_path, of_words(tmp_path, [["so", "."]], [["O", "O"]])) == (
        "TRAIN has no entity in any row: there is nothing to learn"
    )


def test_tags_that_the_task_does_not_have_are_listed(tmp_path: Path) -> None:
    task = of_words(tmp_path, [["Ann", "left"]], [["B-name,B-city", "B-date"]], labels=["name", "date"])

    assert message_of(tmp_path, task) == (
        "TRAIN has tags that are not among the task's: B-name,B-city; the task's are O, B-name, I-name, B-date, I-date "
        "(from the config); where several tags stand in one, task.alternatives says what separates them"
    )


def test_a_type_that_only_dev_has_cannot_be_learned(tmp_path: Path) -> None:
    paths = {
        "train": write(tmp_path, "train", tokens=[["Ann"]], tags=[["B-name"]]),
        "dev": write(tmp_path, "dev", tokens=[["Bonn", "York"]], tags=[["B-city", "I-city"]]),
    }
    task = task_over("token-classification", paths, labels=["city", "name"])

    message = refused(BadArtifact, lambda: load(task, tmp_path))

    assert message == (
        "label 'B-city' occurs in dev and never in train, so nothing can learn it (1 such): add such rows to train, or "
        "take them out of dev"
    )


def test_that_no_entity_of_train_goes_on_is_no_fault_of_dev(tmp_path: Path) -> None:
    paths = {
        "train": write(tmp_path, "train", tokens=[["Ann"]], tags=[["B-name"]]),
        "dev": write(tmp_path, "dev", tokens=[["Ann", "Lee"]], tags=[["B-name", "I-name"]]),
    }
    assert load(task_over("token-classification", paths), tmp_path).dev.labels[0].tags == (1, 2)


# -- first sub-tokens --------------------------------------------------------------------------------------------------


def places_of(split: Split, *, max_length: int = 64) -> Places:
    return task_over("token-classification").places(split, tokenizer(), max_length=max_length)


def test_a_word_is_tagged_at_its_first_sub_token() -> None:
    """Ann Lee, of: [CLS] ann l ##e ##e , o ##f [SEP]"""
    split = split_of(("Ann Lee, of", (3, 4, 0, 1)), ("Bonn", (1,)))

    places = places_of(split)
    targets = task_over("token-classification").targets(split, (1, 0), places, 9)

    assert [where.tolist() for where in places] == [[[1, 2], [2, 5], [5, 6], [6, 8]], [[1, 2]]]
    assert targets.tolist() == [
        [IGNORED, 1, *[IGNORED] * 7],
        [IGNORED, 3, 4, IGNORED, IGNORED, 0, 1, IGNORED, IGNORED],
    ]
    assert task_over("token-classification").units(targets) == 5


def test_words_that_are_cut_away_have_no_place_and_are_answered_as_outside() -> None:
    split = split_of(("Ann Lee Bonn", (3, 4, 1)))

    places = places_of(split, max_length=4)  # [CLS] ann l [SEP]

    assert [where.tolist() for where in places] == [[[1, 2], [2, 3], [-1, -1]]]
    sure_of_city = np.tile(np.array([0, 9, 0, 0, 0], np.float32), (4, 1))
    answers = task_over("token-classification").answers([sure_of_city], Fitted("token-classification", NAMES), places)
    assert answers == [("B-city", "B-city", "O")]


@pytest.mark.parametrize(("aggregation", "tag"), [("first", "O"), ("average", "B-city"), ("max", "B-name")])
def test_a_word_is_judged_and_shipped_by_the_aggregation_that_the_task_names(aggregation: str, tag: str) -> None:
    """Lee, of: [CLS] l ##e ##e [SEP]"""
    split = split_of(("Lee", (1,)))
    outside = [0.96, 0.01, 0.01, 0.01, 0.01]
    lee = [[0.5, 0.45, 0.01, 0.02, 0.02], [0.3, 0.35, 0.1, 0.05, 0.2], [0.01, 0.37, 0.01, 0.6, 0.01]]
    logits = np.log(np.array([outside, *lee, outside], np.float32))
    task = task_over("token-classification", aggregation=aggregation)
    data = TaskData(NAMES, {"dev": split}, 0)

    fitted = task.fit([], data, None)

    assert fitted.aggregation == aggregation
    assert task.answers([logits], fitted, places_of(split)) == [(tag,)]


def test_a_word_that_the_tokenizer_drops_is_refused_in_an_entity_and_passed_over_outside_one() -> None:
    invisible = "\u200b"
    text = f"Ann {invisible} Lee"
    split = split_of((text, (3, 0, 1)))
    assert [where[:, 0].tolist() for where in places_of(split)] == [[1, -1, 2]]
    targets = task_over("token-classification").targets(split, [0], places_of(split), 6)
    assert targets.tolist() == [[IGNORED, 3, 1, IGNORED, IGNORED, IGNORED]]

    message = refused(BadArtifact, lambda: places_of(split_of((text, (3, 4, 4)))))

    assert message == (
        "the word '\\u200b' (characters 4 to 5 of 'Ann \\u200b Lee') belongs to an entity, and the tokenizer makes no "
        "token of it: mend the text, or leave the word out of the entity"
    )
    assert "(characters 4 to 5 of" in refused(BadArtifact, lambda: places_of(split_of((text[:5], (3, 4)))))


def test_a_word_that_is_dropped_before_the_text_is_cut_is_refused_and_one_behind_the_cut_is_not() -> None:
    text = "Ann \u200b Bonn \u200b Lee"
    assert [where[:, 0].tolist() for where in places_of(split_of((text, (3, 0, 1, 2, 0))), max_length=4)] == [
        [1, -1, 2, -1, -1]
    ]
    refused(BadArtifact, lambda: places_of(split_of((text, (3, 4, 1, 0, 0))), max_length=4))


# -- answers and metrics -----------------------------------------------------------------------------------------------


def test_entities_are_those_that_a_client_is_told() -> None:
    """Of plain text, which both halves cut into the same words; also where two outputs are all but equal."""
    texts = [ANN, "Bonn", "(New York's Ann)", "so, so!"]
    split = split_of(*((text, [0] * len(words_of(text))) for text in texts))
    encodings = [tokenizer().encode(text) for text in texts]
    generator = np.random.default_rng(0)
    outputs = [generator.normal(0, 2, (len(each.ids), len(NAMES))).astype(np.float32) for each in encodings]
    outputs[1][1] = [0.1, np.nextafter(np.float32(0.1), np.float32(1)), 0, 0, 0]
    fitted = Fitted("token-classification", NAMES)
    told = results(
        [probabilities(each, task="token-classification") for each in outputs],
        spec=spec_of(fitted, max_length=64),
        items=split.items,
        offsets=[each.offsets for each in encodings],
    )

    answers = task_over("token-classification").answers(outputs, fitted, places_of(split))

    words = [words_of(text) for text in texts]
    found = [
        [(label, words[n][first][0], words[n][last][1]) for label, first, last in get_entities(list(tags))]
        for n, tags in enumerate(answers)
    ]
    assert found == [[(one["label"], one["start"], one["end"]) for one in each["entities"]] for each in told]
    assert len(found[1]) == 0
    assert sum(map(len, found)) > 5


@pytest.mark.parametrize("seed", range(3))
def test_the_metric_is_that_of_seqeval_and_the_one_that_is_reported(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = [("a b c d e", generator.choice(5, 5, p=(0.4, 0.2, 0.1, 0.2, 0.1)).tolist()) for _ in range(40)]
    split = split_of(*rows)
    outputs = [(np.eye(5)[[0, *tags, 0]] * 3 + generator.normal(0, 1, (7, 5))).astype(np.float32) for _, tags in rows]
    task, fitted = task_over("token-classification"), Fitted("token-classification", NAMES)

    judged = task.judged(outputs, TaskData(NAMES, {"test": split}, 0), fitted, places_of(split))

    answers, truths = judged["entity_f1"].answers, judged["entity_f1"].labels
    assert tuple(judged) == task.metrics == task.figures == ("entity_f1",)
    assert list(truths) == [tuple(NAMES[tag] for tag in tags) for _, tags in rows]
    assert [list(tags) for tags in answers] == [[NAMES[tag] for tag in row[1:-1].argmax(axis=1)] for row in outputs]
    wanted = f1_score([list(tags) for tags in truths], [list(tags) for tags in answers])
    assert 0.5 < wanted < 1
    assert task.score("entity_f1", answers, truths) == pytest.approx(wanted, abs=1e-12)
    assert quality.score("entity_f1", answers, truths, resamples=10).value == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("answer", [("O", "O"), ("B-x", "O")])
@pytest.mark.parametrize("truth", [("O", "O"), ("O", "B-x")])
def test_finding_nothing_where_there_is_nothing_scores_nothing(answer: Any, truth: Any) -> None:
    """And warns of nothing."""
    assert task_over("token-classification").score("entity_f1", [answer], [truth]) == 0.0
