from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.docstring_sets import (
    Labelled,
    NameMask,
    Split,
    fill_evenly,
    labelled_sets,
    package_of,
    split_of,
    unlabelled_texts,
    words_key,
)
from pipeline.data.progress import silent

Install = Callable[..., None]
SIZES: dict[Split, int] = {"train": 1000, "dev": 1000, "test": 1000}
WORDS = ("red", "blue", "green", "large", "small", "round", "fast", "slow", "old", "new", "hot", "cold")


def module_in(split: Split, *, library: str, nth: int = 0) -> str:
    """A module path that the hash puts into this split."""
    paths = (f"{library}/m{n}.py" for n in range(1000))
    return [path for path in paths if split_of(path) == split][nth]


def source(texts: list[str]) -> str:
    return "".join(f'def f{n}():\n    """{text}"""\n' for n, text in enumerate(texts))


def sentences(library: str, count: int) -> list[str]:
    pairs = [(a, b) for a in WORDS for b in WORDS][:count]
    return [f"Return the {a} {b} part of every {library}thing." for a, b in pairs]


def everything(sets: dict[Split, list[Labelled]]) -> list[str]:
    return [example.text for examples in sets.values() for example in examples]


def test_a_module_gives_its_texts_to_one_split(install: Install, cache: Path) -> None:
    for library in ("apples", "cars"):
        texts = iter(sentences("apple" if library == "apples" else "wheel", 30))
        modules = [module_in(split, library=library) for split in SIZES]
        install(library, {path: source([next(texts) for _ in range(10)]) for path in modules})

    sets = labelled_sets(("apples", "cars"), sizes=SIZES, cache=cache, progress=silent)

    assert {split: len(examples) for split, examples in sets.items()} == {"train": 20, "dev": 20, "test": 20}
    assert len(set(everything(sets))) == 60


def test_a_text_in_modules_of_two_splits_stays_in_train_only(install: Install, cache: Path) -> None:
    shared = "Return the part that both of them have."
    test = module_in("test", library="apples")
    train = max(module_in("train", library="apples", nth=nth) for nth in range(50))
    assert test < train, "the order of modules alone must not decide"
    install("apples", {test: source([shared, "Return what is tested only in this."]), train: source([shared])})
    install("cars", {module_in("train", library="cars"): source(["Return the wheel of every old car."])})

    sets = labelled_sets(("apples", "cars"), sizes=SIZES, cache=cache, progress=silent)

    assert [e.text for e in sets["test"]] == ["Return what is tested only in this."]
    assert Labelled(shared, "apples", package="apples") in sets["train"]


def test_a_text_of_two_libraries_has_no_label_and_is_left_out(install: Install, cache: Path) -> None:
    for library, own in (
        ("apples", "Return the core of every red apple."),
        ("cars", "Return the wheel of every old car."),
    ):
        shared = f"Return the part that {library} has in it."
        install(library, {module_in("train", library=library): source([shared, own])})

    sets = labelled_sets(("apples", "cars"), sizes=SIZES, cache=cache, progress=silent)

    assert sorted(everything(sets)) == ["Return the core of every red apple.", "Return the wheel of every old car."]


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("apples/red/core/seed.py", "apples.red"),
        ("apples/red/seed.py", "apples.red"),
        ("apples/seed.py", "apples"),
        ("apples.py", "apples"),
    ],
)
def test_a_package_is_the_library_or_a_part_of_it(path: str, package: str) -> None:
    assert package_of(path) == package


def test_texts_are_the_same_when_only_identifiers_and_numbers_differ() -> None:
    assert words_key("Serializes the FooBar_1 into a dictionary.") == words_key(
        "Serializes the a.b.Baz into a dictionary"
    )
    assert words_key("Returns the red one of them.") != words_key("Returns the old one of them.")
    assert words_key("Alpha1 Beta2") != words_key("Alpha1 Gamma2")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("A PyTorch tensor of torch.nn.Linear.", "A library tensor of library."),
        ("The scikit-learn and sklearn API, and scikit.", "The library and library API, and library."),
        ("As np.array, not as snp or unpacked.", "As library, not as snp or unpacked."),
        ("The torchvision/transforms, and databricks-torch.", "The library, and library."),
        ("A text without a name.", "A text without a name."),
    ],
)
def test_names_of_libraries_are_masked_wherever_they_occur(text: str, masked: str) -> None:
    mask = NameMask({"torch": ["torch/nn.py"], "scikit-learn": ["sklearn/base.py"], "numpy": ["numpy/core.py"]})

    assert mask(text) == masked


def test_a_class_is_cut_only_as_far_as_balance_needs() -> None:
    assert fill_evenly({"a": 2, "b": 50, "c": 9}, size=20) == {"a": 2, "c": 9, "b": 9}
    assert fill_evenly({"a": 2, "b": 50, "c": 9}, size=31) == {"a": 2, "c": 9, "b": 20}
    assert fill_evenly({"a": 2, "b": 3}, size=100) == {"a": 2, "b": 3}


def test_splits_are_cut_to_size_evenly_and_the_same_every_time(install: Install, cache: Path) -> None:
    for library, count in (("apples", 60), ("cars", 25)):
        install(library, {module_in("train", library=library): source(sentences(library[:-1] + "ish", count))})
    sizes: dict[Split, int] = {"train": 40}

    sets = labelled_sets(("apples", "cars"), sizes=sizes, cache=cache, progress=silent)

    assert Counter(e.label for e in sets["train"]) == {"apples": 20, "cars": 20}
    assert sets == labelled_sets(("apples", "cars"), sizes=sizes, cache=cache, progress=silent)


def test_text_for_distillation_has_nothing_that_the_labelled_task_holds_out(install: Install, cache: Path) -> None:
    held = "Return the part that is held out here."
    train, test = (module_in(split, library="apples") for split in ("train", "test"))
    both = [held, "Return the core of every red apple."]
    install("apples", {train: source([*both, both[1]]), test: source([held, "Return what is tested only in this."])})

    texts = unlabelled_texts(("apples",), paragraphs="all", cache=cache, progress=silent)

    assert texts == ["Return the core of every red apple."]


def test_first_paragraphs_can_be_had_alone(install: Install, cache: Path) -> None:
    docstring = "Return the core of every red apple.\n\n    It is not to be eaten by anyone."
    install("apples", {module_in("train", library="apples"): source([docstring])})

    first = unlabelled_texts(("apples",), paragraphs="first", cache=cache, progress=silent)
    both = unlabelled_texts(("apples",), paragraphs="all", cache=cache, progress=silent)

    assert first == ["Return the core of every red apple."]
    assert sorted(both) == ["It is not to be eaten by anyone.", *first]
