import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
from models import sentences, tiny_tokenizer

from pipeline.data import windows
from pipeline.data.layout import TextBatch
from pipeline.data.masking import Masking
from pipeline.data.stream import Portion, TextStream
from pipeline.errors import BadArtifact, BadRequest, Transient

TOKENIZER = tiny_tokenizer("bert")
TEXTS = sentences(100, seed=1)
# 100 documents of 6 tokens or so: about ten windows an epoch, of a few batches each.
SMALL = Portion(batch_tokens=32, max_length=12, micro_batches=2, seed=7, shuffle_tokens=64)
WHOLE = replace(SMALL, shuffle_tokens=100_000)
PORTIONS = {
    "padded": SMALL,
    "packed": replace(SMALL, packed=True),
    "masked": replace(SMALL, masking=Masking()),
    "whole words": replace(SMALL, packed=True, masking=Masking(whole_word=True)),
    "one window": WHOLE,
}


def stream(
    portion: Portion = SMALL, texts: Iterable[str] | Callable[[], Iterable[str]] = TEXTS, **options: Any
) -> TextStream:
    return TextStream(texts if callable(texts) else lambda: texts, TOKENIZER, portion, **options)


def steps(of: TextStream, count: int) -> list[tuple[TextBatch, ...]]:
    return [of.step() for _ in range(count)]


def plain(batches: Iterable[TextBatch]) -> list[Any]:
    """Everything in batches, as lists."""

    def lists(value: Any) -> Any:
        return value.tolist() if isinstance(value, np.ndarray) else value

    return [
        [
            *(lists(v) for v in vars(b).values() if v is not b.masked),
            *map(lists, vars(b.masked).values() if b.masked else ()),
        ]
        for b in batches
    ]


def documents(batches: Iterable[TextBatch]) -> list[int]:
    return [number for batch in batches for number in batch.documents]


def endless(shown: list[str], text: str = "!") -> Iterator[str]:
    """A corpus without an end; `shown` says when it was begun, and when closed."""
    shown.append("begun")
    try:
        while True:
            yield text
    finally:
        shown.append("closed")


# -- what a step holds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("portion", [SMALL, PORTIONS["packed"], WHOLE, replace(WHOLE, packed=True)])
def test_every_document_of_a_shard_comes_once_an_epoch(portion: Portion) -> None:
    with stream(replace(portion, micro_batches=1)) as one:
        seen = documents(batch for _ in range(120) for batch in one.step())

    assert sorted(seen[:100]) == sorted(seen[100:200]) == list(range(100))
    assert seen[:100] != seen[100:200] != sorted(seen[100:200])


def test_a_shard_holds_the_documents_that_its_number_leaves() -> None:
    with stream() as both:
        given = steps(both, 60)

    for shard in range(2):
        assert set(documents(step[shard] for step in given)) == set(range(shard, 100, 2))


@pytest.mark.parametrize("portion", PORTIONS.values(), ids=PORTIONS)
def test_a_step_does_not_depend_on_the_number_of_ranks(portion: Portion) -> None:
    with (
        stream(portion) as alone,
        stream(portion, rank=0, world=2) as first,
        stream(portion, rank=1, world=2) as second,
    ):
        for _ in range(60):
            assert plain(alone.step()) == plain([*first.step(), *second.step()])


def test_another_seed_gives_other_batches() -> None:
    with stream() as one, stream(replace(SMALL, seed=8)) as other:
        assert documents(one.step()) != documents(other.step())


@pytest.mark.parametrize("packed", [False, True])
def test_every_window_of_every_shard_and_epoch_is_shuffled_in_its_own_way(packed: bool) -> None:
    portion = Portion(batch_tokens=140, max_length=7, micro_batches=2, packed=packed, shuffle_tokens=140)
    with stream(portion, ["good plot and bad actor"] * 400) as one:  # 7 tokens each: a batch is a window of 20
        orders = [tuple((n - min(b.documents)) // 2 for n in b.documents) for step in steps(one, 30) for b in step]

    assert {tuple(sorted(order)) for order in orders} == {tuple(range(20))}
    assert len(set(orders)) == len(orders)


def test_other_tokens_of_a_document_are_hidden_in_another_epoch() -> None:
    with stream(replace(WHOLE, micro_batches=1, masking=Masking()), ["good plot and bad actor"]) as one:
        hidden = [plain(step)[0][-3:] for step in steps(one, 10)]

    assert len({str(masked) for masked in hidden}) > 2


def test_a_padded_batch_holds_its_documents_row_by_row_within_the_budget() -> None:
    with stream() as one:
        for batch, _ in steps(one, 60):
            rows, columns = batch.input_ids_RC.shape
            assert rows * columns <= 32
            assert batch.position_ids_RC is None
            mask_RC = np.ones((rows, columns)) if batch.attention_mask_RC is None else batch.attention_mask_RC
            for row, number in enumerate(batch.documents):
                ids = TOKENIZER(TEXTS[number], truncation=True, max_length=12)["input_ids"]
                assert batch.input_ids_RC[row].tolist() == ids + [0] * (columns - len(ids))
                assert mask_RC[row].tolist() == [1] * len(ids) + [0] * (columns - len(ids))
                assert (batch.layout.starts[row], batch.layout.lengths[row]) == (row * columns, len(ids))
            assert (batch.attention_mask_RC is None) == (len(set(batch.layout.lengths)) == 1)


def test_a_packed_batch_holds_its_documents_end_to_end_within_the_budget() -> None:
    with stream(PORTIONS["packed"]) as one:
        for batch, _ in steps(one, 60):
            ids = [TOKENIZER(TEXTS[n], truncation=True, max_length=12)["input_ids"] for n in batch.documents]
            assert batch.input_ids_RC.tolist() == [list(chain(*ids))]
            assert batch.input_ids_RC.size <= 32
            assert batch.attention_mask_RC is None
            assert batch.position_ids_RC is not None
            assert batch.position_ids_RC.tolist() == [[place for one in ids for place in range(len(one))]]
            assert batch.layout.lengths == tuple(map(len, ids))
            assert batch.layout.tokens == batch.layout.positions  # nothing is padding


def test_packed_rows_are_nearly_full() -> None:
    texts = sentences(3000, seed=3, longest=60)
    with stream(Portion(batch_tokens=512, max_length=64, packed=True), texts) as one:
        filled = [one.step()[0].layout.tokens / 512 for _ in range(100)]

    assert np.mean(filled) > 0.97


def test_documents_of_special_tokens_alone_are_left_out() -> None:
    texts = ["", "good plot", "!", "[SEP]", "bad"]
    with stream(WHOLE, texts) as one:
        seen = {batch.documents for step in steps(one, 3) for batch in step}

    assert seen == {(4,), (1,)}


# -- where it was ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("portion", PORTIONS.values(), ids=PORTIONS)
def test_a_stream_continues_after_every_step_as_if_never_interrupted(portion: Portion) -> None:
    with stream(portion) as whole:
        positions, given = [whole.position()], []
        for _ in range(60):
            given.append(plain(whole.step()))
            positions.append(json.loads(json.dumps(whole.position())))

    assert positions[-1]["0"]["epoch"] >= 2
    for done, position in enumerate(positions[:-3]):
        with stream(portion, position=position) as resumed:
            assert resumed.position() == position
            assert [plain(step) for step in steps(resumed, 3)] == given[done : done + 3]


def test_a_stream_continues_on_another_number_of_ranks() -> None:
    with stream(rank=0, world=2) as first, stream(rank=1, world=2) as second, stream() as whole:
        for each in (first, second, whole):
            steps(each, 13)
        position = {**second.position(), **first.position()}

        with stream(position=position) as resumed:
            assert [plain(step) for step in steps(resumed, 20)] == [plain(step) for step in steps(whole, 20)]


def test_what_was_passed_is_not_tokenized_again(monkeypatch: pytest.MonkeyPatch) -> None:
    portion = replace(SMALL, micro_batches=1)
    tokenized: list[int] = []
    encode = windows.Encoder.__call__

    def spy(self: windows.Encoder, numbered: list[tuple[int, str]]) -> Iterator[windows.Encoded]:
        tokenized.extend(number for number, _ in numbered)
        return encode(self, numbered)

    with stream(portion) as one:
        while one.position()["0"]["window"] < 5:
            one.step()
        position = one.position()
    monkeypatch.setattr(windows.Encoder, "__call__", spy)
    with stream(portion, position=position) as resumed:
        resumed.step()

    assert position["0"]["document"] > 20
    assert min(tokenized) == position["0"]["document"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_tokens": 64}, "batch_tokens 32, and this run 64"),
        ({"micro_batches": 4}, "micro_batches 2, and this run 4"),
        ({"packed": True}, "packed False, and this run True"),
        (
            {"masking": Masking()},
            "masking None, and this run {'share': 0.15, 'whole_word': False, 'seed': 0}",
        ),
    ],
)
def test_a_position_of_other_settings_is_a_bad_artifact(changes: dict[str, Any], message: str) -> None:
    with stream() as one:
        position = one.position()

    with pytest.raises(BadArtifact) as caught:
        stream(replace(SMALL, **changes), position=position)

    assert str(caught.value) == (
        f"the checkpoint's text stream has {message}; restore it, or remove the checkpoint to start anew"
    )


def test_a_position_without_this_ranks_shard_is_a_bad_artifact() -> None:
    with stream(rank=0, world=2) as one:
        position = one.position()

    with pytest.raises(BadArtifact) as caught:
        stream(rank=1, world=2, position=position)

    assert str(caught.value) == (
        "the checkpoint's text stream has no shard 1, only 0; "
        "resume with the processes it was made with, or remove the checkpoint to start anew"
    )


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            {"window": 9, "document": 200},
            "the text ends before document 200, where the checkpoint stands; "
            "give the text it was made with, or remove the checkpoint to start anew",
        ),
        (
            {"batch": 900},
            "the checkpoint has used 900 batches of a window that holds 2; "
            "give the text and tokenizer it was made with, or remove the checkpoint to start anew",
        ),
    ],
)
def test_a_position_past_what_the_text_holds_is_a_bad_artifact(place: Mapping[str, int], message: str) -> None:
    with stream(rank=0, world=2) as one:
        position = one.position()
    position["0"].update(place)

    with stream(rank=0, world=2, position=position) as resumed, pytest.raises(BadArtifact) as caught:
        resumed.step()

    assert str(caught.value) == message


# -- reading ahead -----------------------------------------------------------------------------------------------------


def test_a_shard_that_fits_one_window_is_read_once() -> None:
    begun: list[int] = []

    def texts() -> list[str]:
        begun.append(1)
        return TEXTS

    with stream(WHOLE, texts) as one:
        steps(one, 60)
        assert one.position()["0"]["epoch"] >= 2

    assert len(begun) == 2  # once for each shard


def test_a_shard_of_several_windows_is_read_once_an_epoch() -> None:
    begun: list[int] = []

    def texts() -> list[str]:
        begun.append(1)
        return TEXTS

    with stream(replace(SMALL, micro_batches=1), texts) as one:
        while one.position()["0"]["epoch"] < 2:
            one.step()
        one.step()

    assert len(begun) == 3


def test_no_more_than_two_windows_and_a_chunk_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "CHUNK_DOCUMENTS", 8)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "good plot and bad actor"  # 7 tokens

    portion = Portion(batch_tokens=70, max_length=12, shuffle_tokens=700)
    with stream(portion, texts) as one:
        for _ in range(100):
            one.step()
            place = one.position()["0"]
            one._worker.submit(int).result()  # whatever was asked of the background is done
            assert read <= place["document"] + 2 * 100 + 8

    assert place["document"] > 500


def test_the_first_windows_are_small_so_that_the_first_step_comes_soon() -> None:
    sizes = [Portion(2048, 128).window_tokens(windows.Place(0, window)) for window in range(6)]

    assert sizes == [62_500, 125_000, 250_000, 500_000, 1_000_000, 1_000_000]
    assert Portion(2048, 128).window_tokens(windows.Place(1, 0)) == 1_000_000
    assert Portion(2048, 128, shuffle_tokens=4096).window_tokens(windows.Place(0, 0)) == 2048


def test_an_error_while_reading_comes_as_itself_after_all_that_was_read_before() -> None:
    def texts() -> Iterator[str]:
        yield from TEXTS[:50]
        raise Transient("the hub went away")

    with stream(SMALL) as whole, stream(SMALL, texts) as broken:
        assert [plain(step) for step in steps(broken, 6)] == [plain(step) for step in steps(whole, 6)]
        with pytest.raises(Transient) as caught:
            steps(broken, 100)
        before = broken.position()
        with pytest.raises(Transient):
            broken.step()

        assert str(caught.value) == "the hub went away"
        assert broken.position() == before


def test_closing_ends_the_thread_and_the_corpus_in_the_midst_of_reading() -> None:
    shown: list[str] = []
    threads = set(threading.enumerate())
    with stream(replace(SMALL, micro_batches=1), lambda: endless(shown)):
        while not shown:
            pass
        assert len(set(threading.enumerate()) - threads) == 1

    assert shown == ["begun", "closed"]
    assert set(threading.enumerate()) == threads


def test_closing_closes_a_corpus_that_was_read_in_part() -> None:
    shown: list[str] = []
    with stream(replace(SMALL, micro_batches=1), lambda: endless(shown, "good plot")) as one:
        steps(one, 5)

    assert shown == ["begun", "closed"]
    one.close()  # again: nothing happens


def test_a_closed_stream_reads_no_further() -> None:
    read: list[str] = []

    def texts() -> Iterator[str]:
        for text in TEXTS * 1000:
            read.append(text)
            yield text

    one = stream(SMALL, texts)
    one.step()
    one.close()
    count = len(read)

    with pytest.raises(AssertionError, match="a closed stream has no next step"):
        one.step()
    assert len(read) == count < 2000


# -- what cannot work --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [[], ["", "!", "[CLS]"] * 3])
def test_text_that_is_empty_after_tokenization_is_a_bad_artifact(texts: list[str]) -> None:
    with stream(SMALL, texts) as one, pytest.raises(BadArtifact) as caught:
        one.step()

    assert str(caught.value) == "the text is empty after tokenization; check the `text` source"


def test_fewer_documents_than_shards_are_a_bad_artifact() -> None:
    with stream(replace(SMALL, micro_batches=4), TEXTS[:3]) as one, pytest.raises(BadArtifact) as caught:
        one.step()

    assert str(caught.value) == ("the text has 3 documents, too few for micro_batches 4: give more text, or lower it")


def test_shards_that_the_processes_cannot_share_are_a_bad_request() -> None:
    with pytest.raises(BadRequest) as caught:
        stream(replace(SMALL, micro_batches=3), world=2)

    assert str(caught.value) == (
        "micro_batches is 3, which 2 processes cannot share evenly; "
        "make it a multiple of 2, or start a number of processes that divides it"
    )


def test_documents_that_may_not_fit_a_batch_are_a_bad_request() -> None:
    with pytest.raises(BadRequest) as caught:
        stream(replace(SMALL, max_length=33))

    assert str(caught.value) == ("max_length is 33, more than the 32 of batch_tokens; lower the one or raise the other")
