from typing import Any

import numpy as np
import pytest
from models import sentences, tiny_tokenizer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from pipeline.data.layout import Masked
from pipeline.data.masking import Masker, Masking, _draw
from pipeline.data.packing import Documents, assemble
from pipeline.data.windows import Encoder, Portion
from pipeline.errors import BadRequest

FAMILIES = ("bert", "roberta", "xlm-roberta")
# Words of one piece and of several, and letters that no vocabulary has (left out by RoBERTa, unknown to the others).
TEXTS = [f"{text} zzxy, é~ quite! {text[::-1]}" for text in sentences(30)] + ["good", "bright plot"]


def encoded(tokenizer: Any, texts: list[str], *, whole_word: bool = False) -> Documents:
    portion = Portion(batch_tokens=512, max_length=256, masking=Masking(whole_word=whole_word))
    found = list(Encoder(tokenizer, portion)(list(enumerate(texts))))
    return Documents(
        np.concatenate([document.ids for document in found]),
        np.cumsum([0, *(len(document.ids) for document in found)]),
        np.array([document.number for document in found]),
        np.concatenate([d.word_starts for d in found if d.word_starts is not None]) if whole_word else None,
    )


def hidden(
    documents: Documents, masking: Masking, *, tokenizer: Any, epoch: int = 0
) -> tuple[np.ndarray[Any, Any], Masked]:
    return Masker(masking, tokenizer).hide(
        documents.flat_ids.astype(np.int64),
        lengths_B=documents.lengths,
        numbers_B=documents.numbers,
        epoch=epoch,
        word_starts_T=documents.word_starts,
    )


def content_of(tokenizer: Any, documents: Documents) -> list[int]:
    ids = np.split(documents.flat_ids, documents.starts[1:-1])
    return [sum(i not in tokenizer.all_special_ids for i in one.tolist()) for one in ids]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.01, 0.15, 0.5])
def test_exactly_the_share_of_each_documents_content_is_hidden(family: str, share: float) -> None:
    tokenizer = tiny_tokenizer(family)
    documents = encoded(tokenizer, TEXTS)

    _, masked = hidden(documents, Masking(share=share), tokenizer=tokenizer)

    expected = [max(1, round(share * content)) for content in content_of(tokenizer, documents)]
    assert np.bincount(masked.documents_M, minlength=len(TEXTS)).tolist() == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("whole_word", [False, True])
def test_no_special_token_is_hidden_and_the_rest_stays_as_it_was(family: str, whole_word: bool) -> None:
    tokenizer = tiny_tokenizer(family)
    documents = encoded(tokenizer, TEXTS, whole_word=whole_word)

    ids_T, masked = hidden(documents, Masking(share=0.9, whole_word=whole_word), tokenizer=tokenizer)

    others = np.setdiff1d(np.arange(len(ids_T)), masked.positions_M)
    assert np.all(np.diff(masked.positions_M) > 0)
    assert not set(masked.labels_M.tolist()) & set(tokenizer.all_special_ids)
    assert (tokenizer.unk_token_id in documents.flat_ids) == (family != "roberta")
    assert masked.labels_M.tolist() == documents.flat_ids[masked.positions_M].tolist()
    assert ids_T[others].tolist() == documents.flat_ids[others].tolist()
    places = np.searchsorted(documents.starts, masked.positions_M, side="right") - 1
    assert masked.documents_M.tolist() == places.tolist()


def test_of_what_is_hidden_80_percent_is_masked_10_random_and_10_kept() -> None:
    tokenizer = tiny_tokenizer("bert")
    documents = encoded(tokenizer, sentences(4000, shortest=6))

    ids_T, masked = hidden(documents, Masking(share=0.5), tokenizer=tokenizer)

    now_M = ids_T[masked.positions_M]
    random_M = now_M[(now_M != tokenizer.mask_token_id) & (now_M != masked.labels_M)]
    assert np.mean(now_M == tokenizer.mask_token_id) == pytest.approx(0.8, abs=0.012)
    assert np.mean(now_M == masked.labels_M) == pytest.approx(0.1, abs=0.01)  # 10 % kept, and one random in 97
    assert set(random_M.tolist()) == set(range(len(tokenizer))) - set(tokenizer.all_special_ids)


def test_every_place_of_a_document_is_as_likely() -> None:
    tokenizer = tiny_tokenizer("bert")
    documents = encoded(tokenizer, ["the actor and the plot very good not bad at"[:40]] * 4000)

    _, masked = hidden(documents, Masking(share=0.2), tokenizer=tokenizer)

    length = int(documents.lengths[0])
    counts = np.bincount(masked.positions_M % length, minlength=length)
    wanted = len(masked.positions_M) / (length - 2)
    assert counts[[0, -1]].tolist() == [0, 0]
    assert counts[1:-1] == pytest.approx(np.full(length - 2, wanted), rel=0.15)


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_words_are_hidden_until_the_share_is_reached(family: str) -> None:
    tokenizer = tiny_tokenizer(family)
    documents = encoded(tokenizer, TEXTS, whole_word=True)

    _, masked = hidden(documents, Masking(share=0.3, whole_word=True), tokenizer=tokenizer)

    for index, (text, content) in enumerate(zip(TEXTS, content_of(tokenizer, documents), strict=True)):
        places = masked.positions_M[masked.documents_M == index] - documents.starts[index]
        words = tokenizer.backend_tokenizer.encode(text).word_ids
        special = [i in tokenizer.all_special_ids for i in tokenizer(text)["input_ids"]]
        chosen = {words[place] for place in places}
        sizes = [sum(w == word and not s for w, s in zip(words, special, strict=True)) for word in chosen]
        wanted = max(1, round(0.3 * content))
        assert len(places) == sum(sizes)  # no word is hidden in part
        assert wanted <= len(places) < wanted + max(sizes)


def test_whole_words_differ_from_single_tokens() -> None:
    tokenizer = tiny_tokenizer("bert")
    documents = encoded(tokenizer, ["zzzzzz good"] * 50, whole_word=True)

    _, masked = hidden(documents, Masking(share=0.15, whole_word=True), tokenizer=tokenizer)

    counts = np.bincount(masked.documents_M)
    assert set(counts.tolist()) == {1, 6}


@pytest.mark.parametrize("whole_word", [False, True])
def test_what_is_hidden_does_not_depend_on_the_batch(whole_word: bool) -> None:
    tokenizer = tiny_tokenizer("bert")
    documents = encoded(tokenizer, TEXTS, whole_word=whole_word)
    masker = Masker(Masking(whole_word=whole_word), tokenizer)
    together = assemble(documents, range(len(TEXTS)), epoch=3, pad_id=None, masker=masker)

    for row in range(len(TEXTS)):
        alone = assemble(documents, [row], epoch=3, pad_id=None, masker=masker)
        padded = assemble(documents, [0, row, 5], epoch=3, pad_id=0, masker=masker)
        begin, length = together.layout.starts[row], together.layout.lengths[row]

        assert alone.input_ids_RC[0].tolist() == together.input_ids_RC[0, begin : begin + length].tolist()
        assert padded.input_ids_RC[1, :length].tolist() == alone.input_ids_RC[0].tolist()


def test_places_in_a_padded_batch_point_at_the_labels_tokens() -> None:
    tokenizer = tiny_tokenizer("bert")
    documents = encoded(tokenizer, TEXTS)
    plain = assemble(documents, [3, 30, 7], epoch=0, pad_id=0, masker=None)

    batch = assemble(documents, [3, 30, 7], epoch=0, pad_id=0, masker=Masker(Masking(), tokenizer))

    assert batch.masked is not None
    assert plain.input_ids_RC.reshape(-1)[batch.masked.positions_M].tolist() == batch.masked.labels_M.tolist()
    columns = plain.input_ids_RC.shape[1]
    assert batch.masked.documents_M.tolist() == (batch.masked.positions_M // columns).tolist()


def test_seed_epoch_and_number_each_change_what_is_hidden() -> None:
    tokenizer = tiny_tokenizer("bert")
    documents = encoded(tokenizer, TEXTS)
    other = Documents(documents.flat_ids, documents.starts, documents.numbers + 1, None)

    draws = [
        hidden(documents, Masking(), tokenizer=tokenizer),
        hidden(documents, Masking(seed=1), tokenizer=tokenizer),
        hidden(documents, Masking(), tokenizer=tokenizer, epoch=1),
        hidden(documents, Masking(seed=1), tokenizer=tokenizer, epoch=1),
        hidden(other, Masking(), tokenizer=tokenizer),
    ]

    assert len({tuple(masked.positions_M.tolist()) for _, masked in draws}) == len(draws)
    assert len({tuple(ids_T.tolist()) for ids_T, _ in draws}) == len(draws)


def test_the_generator_is_splitmix64() -> None:
    zeros = np.zeros(1, np.uint64)

    drawn = [int(_draw(zeros, np.zeros(1, np.int64), which)[0]) for which in range(3)]

    assert drawn == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert int(_draw(zeros, np.ones(1, np.int64), 0)[0]) == 0xF88BB8A8724C81EC


def test_a_tokenizer_without_a_mask_token_is_a_bad_request() -> None:
    tokenizer = tiny_tokenizer("bert")
    tokenizer.mask_token = None

    with pytest.raises(BadRequest) as caught:
        Masker(Masking(), tokenizer)

    assert str(caught.value) == (
        "the tokenizer BertTokenizer names no mask token; take a teacher that was trained as a masked language "
        "model, or an objective that hides no tokens"
    )


def test_a_tokenizer_that_does_not_part_words_is_a_bad_request_for_whole_words_alone() -> None:
    vocabulary = [("<unk>", 0.0), ("<mask>", 0.0), ("a", -1.0), (" ", -1.0), ("b", -1.0)]
    unparted = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unparted, mask_token="<mask>", unk_token="<unk>")

    Masker(Masking(), tokenizer)
    with pytest.raises(BadRequest) as caught:
        Masker(Masking(whole_word=True), tokenizer)

    assert str(caught.value) == (
        "the tokenizer TokenizersBackend does not part text into words, so whole words cannot be hidden; "
        "set whole_words to false"
    )
