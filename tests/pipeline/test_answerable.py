"""Which texts an export is proven on, and that long ones are answered as torch's windows of them are."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from models import ITEMS, MAX_LENGTH, Exported

from pipeline import exporting
from pipeline.answerable import answered, encode
from pipeline.errors import BadArtifact
from serving.bundle import Item, ServingSpec, read_bundle
from serving.engine import Answer, Engine, check_golden
from serving.instances import Instances
from serving.long_texts import LongTexts, Refuse, Windows
from serving.packing import Fixed
from serving.tuning import Setting

LONG: list[Item] = [(" ".join(text for (text,) in ITEMS[at : at + 3]),) for at in range(0, 12, 3)]
SHORT: list[Item] = [(" ".join(text.split()[:3]),) for (text,) in ITEMS[:6]]


def sealed(exported: Exported, path: Path, long_texts: LongTexts, items: list[Item]) -> Engine:
    exported.copy(path)
    spec = msgspec.structs.replace(exported.spec(), long_texts=long_texts)
    exporting.seal_bundle(path, model=exported.model, spec=spec, items=items)
    return Engine(read_bundle(path), threads=1)


def spec_of(exported: Exported, long_texts: LongTexts) -> ServingSpec:
    return msgspec.structs.replace(exported.spec(), long_texts=long_texts)


def test_windows_are_answered_as_torch_answers_them(exported: Exported, tmp_path: Path) -> None:
    engine = sealed(exported, tmp_path / "bundle", Windows(stride=4), [*LONG, *SHORT])
    tokens = engine.encode(LONG)
    assert all(len(one.windows) > 1 and len(one.ids) > MAX_LENGTH for one in tokens)
    check_golden(engine)
    parity = exporting.check_parity(engine, exported.model, [*LONG, *SHORT])
    assert (parity.texts, parity.labels_differ) == (10, 0)


def test_a_window_that_torch_answers_otherwise_is_an_error(
    bert: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sealed(bert, tmp_path / "bundle", Windows(stride=4), LONG)
    monkeypatch.setattr(engine, "_unit", True)
    with pytest.raises(BadArtifact, match="the ONNX graph differs from torch by "):
        exporting.check_parity(engine, bert.model, LONG)


@pytest.mark.parametrize("most", [2, 5, 64])
def test_together_is_as_alone_within_the_tolerance_that_the_bundle_states(
    exported: Exported, tmp_path: Path, most: int
) -> None:
    engine = sealed(exported, tmp_path / "bundle", Windows(stride=4), [*SHORT, *LONG])
    tolerance = engine.bundle.golden.tolerance
    jobs = [ITEMS[:3], LONG[:2], SHORT[:1], [*SHORT[1:], *LONG[2:]]]
    for job, together in zip(
        jobs, Instances([engine], setting=Setting()).answer_jobs(jobs, packing=Fixed(most)), strict=True
    ):
        assert isinstance(together, Answer)
        alone = engine.answer(job)
        assert together.offsets == alone.offsets
        off = max(float(np.abs(one - two).max()) for one, two in zip(together.scores, alone.scores, strict=True))
        assert off <= tolerance


def test_items_are_tokenized_as_in_training_and_long_ones_as_the_server_cuts_them(
    bert: Exported, tmp_path: Path
) -> None:
    engine = sealed(bert, tmp_path / "bundle", Windows(stride=4), SHORT)
    found = encode(engine.bundle.path, [*SHORT, *LONG], spec=engine.bundle.spec)
    assert found == engine.encode([*SHORT, *LONG])
    cut = encode(engine.bundle.path, LONG, spec=bert.spec())
    assert [len(one.ids) for one in cut] == [MAX_LENGTH] * len(LONG)


def test_an_export_is_proven_on_texts_that_the_server_answers(bert: Exported) -> None:
    spec = spec_of(bert, Refuse())
    found = answered(bert.bundle, [*LONG, *SHORT[:4]], SHORT[4:], spec=spec, most=5)
    assert found == tuple(SHORT[:5])
    cut = answered(bert.bundle, [*LONG, *SHORT[:4]], SHORT[4:], spec=bert.spec(), most=5)
    assert cut == (*LONG, SHORT[0])


def test_too_few_texts_that_the_server_answers_are_refused(bert: Exported) -> None:
    with pytest.raises(BadArtifact) as refused:
        answered(bert.bundle, [*LONG, *SHORT[:4]], SHORT[4:], spec=spec_of(bert, Refuse()), most=7)
    assert str(refused.value) == (
        "export proves parity on 7 real texts; only 6 of train and dev are not refused: add texts"
    )


@pytest.mark.parametrize("long_texts", [Refuse(), Windows(stride=4, max_windows=1)])
def test_a_text_to_be_judged_by_that_the_server_refuses_is_told_before_it_is_met(
    bert: Exported, long_texts: LongTexts
) -> None:
    with pytest.raises(BadArtifact) as refused:
        answered(bert.bundle, SHORT, [SHORT[0], LONG[0], LONG[1]], spec=spec_of(bert, long_texts), most=2)
    told = long_texts.told(reads=MAX_LENGTH)
    assert str(refused.value) == (
        f"export.long_texts: {told}, and 2 of dev's 3 texts would be refused; take them out of the data, or choose "
        f"another kind; the first: {LONG[0]!r:.80}"
    )
