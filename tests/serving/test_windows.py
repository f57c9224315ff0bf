"""Texts of more tokens than their model reads: cut, refused, or computed as windows and put together again."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from fakes import VOCABULARY, WEIGHT, WORDS, tiny_bundle
from tokenizers import Tokenizer, processors

from serving.answers import results
from serving.bundle import Aggregation, Item, TaskKind, read_bundle, seal_core
from serving.engine import Engine, Tokens
from serving.errors import BadArtifact, BadRequest
from serving.instances import Instances
from serving.long_texts import Refuse, Windows
from serving.packing import Fixed
from serving.tuning import Setting
from serving.windows import pieces

LONG = ("good bad awful fine dull bright " * 5,)  # 30 words; 14 of them fit beside [CLS] and [SEP]
CLS, SEP = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")


def opened(path: Path, stride: int = 4, max_windows: int = 32, **changes: object) -> Engine:
    long_texts = Windows(stride=stride, max_windows=max_windows)
    return Engine(tiny_bundle(path, long_texts=long_texts, **changes), threads=1)  # type: ignore[arg-type]


def refusal(engine: Engine, *items: Item) -> str:
    with pytest.raises(BadRequest) as refused:
        engine.encode(items)
    return str(refused.value)


def read_by(engine: Engine, item: Item) -> list[str]:
    """The words of every window, special tokens included."""
    (tokens,) = engine.encode([item])
    return [" ".join(VOCABULARY[one] for one in window.tokens.ids) for window in tokens.windows]


def votes(words: Sequence[str], *, outputs: int) -> list[float]:
    """The closed form of tiny_bundle for one window of these words."""
    found = np.zeros(outputs)
    for word in words:
        found[WORDS.index(word) % outputs] += WEIGHT / (len(words) + 2)
    return found.tolist()


def test_windows_cover_the_text_in_order_share_their_stride_and_have_special_tokens_each(tmp_path: Path) -> None:
    words = LONG[0].split()
    wanted = [words[0:14], words[10:24], words[20:30]]
    assert read_by(opened(tmp_path), LONG) == [f"[CLS] {' '.join(each)} [SEP]" for each in wanted]


@pytest.mark.parametrize("stride", [0, 1, 2, 3, 4, 8])
@pytest.mark.parametrize("words", [15, 16, 24, 25, 60, 101])
def test_every_token_is_one_window_s_own_and_has_most_text_beside_it_there(
    tmp_path: Path, stride: int, words: int
) -> None:
    engine = opened(tmp_path, stride=stride, task="token-classification")
    (tokens,) = engine.encode([(" ".join(WORDS[i % 6] for i in range(words)),)])
    assert [one for w in tokens.windows for one in w.tokens.ids[w.first : w.last]] == tokens.ids
    assert sum(window.weight for window in tokens.windows) == words
    assert all(len(window.tokens.ids) == 16 for window in tokens.windows[:-1])
    for left, right in zip(tokens.windows, tokens.windows[1:], strict=False):
        behind, before = len(left.tokens.ids) - 1 - left.last, right.first - 1  # shared tokens that are not its own
        assert behind + before == stride
        assert abs(behind - before) <= 1


def test_a_text_that_just_fits_is_computed_as_ever(tmp_path: Path) -> None:
    (tokens,) = opened(tmp_path).encode([(" ".join(["good"] * 14),)])
    assert (len(tokens.ids), tokens.windows) == (16, ())


@pytest.mark.parametrize("task", ["classification", "multi-label", "regression"])
def test_raw_outputs_are_averaged_by_how_many_tokens_are_a_window_s_own(tmp_path: Path, task: TaskKind) -> None:
    engine = opened(tmp_path, task=task)
    words, outputs = LONG[0].split(), engine.bundle.spec.outputs
    parts = [votes(part, outputs=outputs) for part in (words[0:14], words[10:24], words[20:30])]
    wanted = np.average(parts, axis=0, weights=[12, 10, 8])
    np.testing.assert_allclose(engine.logits([LONG])[0], wanted, rtol=1e-5)


def test_scores_are_made_of_the_averaged_outputs(tmp_path: Path) -> None:
    engine = opened(tmp_path)
    (logits,) = engine.logits([LONG])
    np.testing.assert_allclose(engine.answer([LONG]).scores[0], np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


@pytest.mark.parametrize("unit", [False, True])
def test_a_vector_is_of_unit_length_where_the_golden_ones_are(tmp_path: Path, unit: bool) -> None:
    bundle = tiny_bundle(tmp_path, task="embedding", long_texts=Windows(stride=4))
    if unit:
        rows = [(np.array(row) / np.linalg.norm(row)).tolist() for row in bundle.golden.logits]
        seal_core(tmp_path, spec=bundle.spec, golden=type(bundle.golden)(bundle.golden.items, rows, 1.0))
    (vector,) = Engine(read_bundle(tmp_path), threads=1).logits([LONG])
    words = LONG[0].split()
    parts = [votes(part, outputs=3) for part in (words[0:14], words[10:24], words[20:30])]
    mean = np.average(parts, axis=0, weights=[12, 10, 8])
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean) if unit else mean, rtol=1e-5)


def test_entities_beyond_the_first_window_and_across_an_edge_are_found_in_place(tmp_path: Path) -> None:
    engine = opened(tmp_path, task="token-classification")
    text = "bad " * 9 + "good awful awful awful awful " + "bad " * 20 + "😀 dull\r\n\tbright"
    answer = engine.answer([(text,)])
    assert len(answer.scores[0]) == len(answer.offsets[0]) == 2 + len(text.split())
    (record,) = results(answer.scores, spec=engine.bundle.spec, items=[(text,)], offsets=answer.offsets)
    found = [(one["start"], one["end"], one["text"]) for one in record["entities"]]  # type: ignore[attr-defined]
    assert [text[start:end] for start, end, _ in found] == [told for *_, told in found]
    assert [told for *_, told in found] == ["good awful awful awful awful", "dull\r\n\tbright"]


@pytest.mark.parametrize("aggregation", get_args(Aggregation))
def test_what_is_found_in_windows_is_what_is_found_at_once_cut_exactly_from_any_text(
    tmp_path: Path, aggregation: Aggregation
) -> None:
    """A tiny tagger looks at no neighbour, so where windows begin and end cannot matter."""
    told = {"task": "token-classification", "aggregation": aggregation}
    windowed = opened(tmp_path / "windowed", stride=3, **told)
    whole = Engine(tiny_bundle(tmp_path / "whole", max_length=512, **told), threads=1)  # type: ignore[arg-type]
    signs = ["😀", "👩‍👩‍👧", "e\u0301", "\u200d", "\u200b", "好", "(", "'s", ",", "-", "\u0130", "ﬁ"]
    blanks = [" ", "\r\n", "\t", "\u00a0", "\u3000", "  "]
    found = 0
    for seed in range(40):
        drawn = random.Random(seed)
        text = "".join(drawn.choice([*WORDS * 2, *signs]) + drawn.choice([*blanks, ""]) for _ in range(90))
        answers = [engine.answer([(text,)]) for engine in (windowed, whole)]
        records = [results(one.scores, spec=whole.bundle.spec, items=[(text,)], offsets=one.offsets) for one in answers]
        assert records[0] == records[1]
        for entity in records[0][0]["entities"]:  # type: ignore[attr-defined]
            cut = text[entity["start"] : entity["end"]]
            assert entity["text"] == cut == cut.strip()
            assert cut
            found += 1
    assert found > 400


def test_of_a_pair_the_longer_text_is_cut_and_the_other_whole_in_every_window(tmp_path: Path) -> None:
    engine = opened(tmp_path, texts_per_item=2, stride=2)
    assert read_by(engine, ("bad good", " ".join(["fine"] * 12))) == [
        "[CLS] bad good [SEP]" + " fine" * 11 + " [SEP]",
        "[CLS] bad good [SEP]" + " fine" * 3 + " [SEP]",
    ]
    first, second = engine.encode([(" ".join(["fine"] * 12), "bad good")])[0].windows
    assert first.tokens.type_ids == [0] * 13 + [1] * 3
    assert [VOCABULARY[one] for one in second.tokens.ids] == ["[CLS]", *["fine"] * 3, "[SEP]", "bad", "good", "[SEP]"]


def test_of_texts_as_long_the_second_is_cut(tmp_path: Path) -> None:
    engine = opened(tmp_path, texts_per_item=2, stride=1)
    assert read_by(engine, (" ".join(["bad"] * 9), " ".join(["fine"] * 9)))[0] == (
        "[CLS]" + " bad" * 9 + " [SEP]" + " fine" * 4 + " [SEP]"
    )


def test_special_tokens_between_texts_stay_there_as_roberta_has_them(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, texts_per_item=2, long_texts=Windows(stride=2))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    seal_core(tmp_path, spec=bundle.spec, golden=bundle.golden)
    assert read_by(Engine(read_bundle(tmp_path), threads=1), ("bad", " ".join(["fine"] * 13))) == [
        "[CLS] bad [SEP] [SEP]" + " fine" * 11 + " [SEP]",
        "[CLS] bad [SEP] [SEP]" + " fine" * 4 + " [SEP]",
    ]


def test_a_pair_whose_shorter_text_leaves_no_room_is_refused(tmp_path: Path) -> None:
    engine = opened(tmp_path, texts_per_item=2)
    told = (
        "item 1 has 22 tokens, and its shorter text leaves the longer one 4 of the 16 this model reads, no more than "
        "the 4 that windows share; shorten both"
    )
    assert refusal(engine, ("good", "bad"), ("good " * 9, "bad " * 10)) == told


def test_one_text_cannot_take_the_server(tmp_path: Path) -> None:
    engine = opened(tmp_path, stride=4, max_windows=3)
    assert len(read_by(engine, (" ".join(["good"] * 34),))) == 3
    told = "item 1 has 37 tokens: 4 windows, more than the 3 this model computes for one; shorten it"
    assert refusal(engine, ("good",), (" ".join(["good"] * 35),)) == told


def test_a_long_text_is_refused_where_the_bundle_says_so(tmp_path: Path) -> None:
    engine = Engine(tiny_bundle(tmp_path, long_texts=Refuse()), threads=1)
    assert len(engine.encode([("good " * 14,)])[0].ids) == 16
    told = "item 1 has 17 tokens, more than the 16 this model reads; shorten it"
    assert refusal(engine, ("good " * 14,), ("good " * 15,)) == told


def test_windows_of_several_items_share_calls_and_each_item_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(tmp_path)
    jobs = [[("good",), LONG], [("dull " * 20,)], [("bad fine",)]]
    wanted = [engine.answer(job).scores for job in jobs]
    ran, run = [], engine.run
    monkeypatch.setattr(engine, "run", lambda batch: (ran.append(len(batch)), run(batch))[1])
    found = Instances([engine], setting=Setting()).answer_jobs(jobs, packing=Fixed(4))
    assert ran == [4, 3]
    for answer, scores in zip(found, wanted, strict=True):
        assert not isinstance(answer, Exception)
        np.testing.assert_allclose(answer.scores, scores, atol=1e-6)


def test_token_ids_are_never_cut(tmp_path: Path) -> None:
    engine = opened(tmp_path)
    told = "item 0 has 17 token id(s); this model takes 1 to 16"
    assert refusal(engine, Tokens([5] * 17, [0] * 17)) == told  # type: ignore[arg-type]


def test_what_is_computed_of_items_is_themselves_or_their_windows(tmp_path: Path) -> None:
    short, long = engine_tokens = opened(tmp_path).encode([("good",), LONG])
    assert pieces(engine_tokens) == [short, *(window.tokens for window in long.windows)]


def test_windows_that_hold_nothing_of_their_own_do_not_load(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path, max_length=5, texts_per_item=2, long_texts=Windows(stride=2))
    with pytest.raises(BadArtifact) as refused:
        Engine(bundle, threads=1)
    assert str(refused.value) == (
        f"{tmp_path}: windows that share 2 tokens hold none of their own: the model reads 5, 3 of them special; "
        "export it with a smaller stride"
    )
