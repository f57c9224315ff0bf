"""The model card: what it says, that every number of it is a receipt's, and that other people's words stay words."""

import re
from pathlib import Path

import msgspec
import pytest
from earned import LABELS, as_json, earned_steps, facts_in, origin, sources_in

from pipeline import card
from pipeline.card import (
    CARD,
    HEAD_CHARACTERS,
    LABELS_SHOWN,
    TEMPLATE,
    card_head,
    code,
    interval,
    number,
    render_card,
    text,
)
from pipeline.licences import Licence
from pipeline.version_records import Figure, VersionFacts
from serving.bundle import TaskKind

# All that a card says with a digit in it and that is no figure: how sure an interval is, names, and an address.
DIGITS_OF_ITS_OWN = {"95", "p50", "p95", "p99", "fp32", "8080", "sha256", "batch 1"}


@pytest.fixture
def facts(tmp_path: Path) -> VersionFacts:
    return facts_in(tmp_path, earned_steps(tmp_path / "steps"), sources=sources_in(tmp_path))


def rows(told: str, heading: str) -> list[list[str]]:
    """The cells of the tables below a heading."""
    part = told.partition(f"## {heading}\n")[2]
    lines = re.split(r"^## ", part, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]


# -- what it says ------------------------------------------------------------------------------------------------------


def test_it_says_what_the_model_is(facts: VersionFacts) -> None:
    told = render_card(facts)
    assert told.startswith("# tiny\n\nIt gives a text one label of several: a Transformer encoder")
    cells = dict(row for row in rows(f"## top\n{told}", "top") if len(row) == 2)
    assert cells["variant"] == "`student-onnx-int8`"
    assert cells["labels"] == "2: `negative`, `positive`"
    assert cells["digest of the bundle"] == f"`{facts.digest}`"
    assert cells["gate"] == r"PASS: student-onnx-int8 passes every rule: p95\_ms 2.5 is \<= 5"
    assert cells["size"].endswith("parameters (its teacher: 22,713,216)")


def test_it_says_of_what_it_was_made_and_under_which_licences(facts: VersionFacts) -> None:
    made = rows(render_card(facts), "What it was made of")
    assert made[:6] == [
        ["what", "source", "version", "licence", "stated by"],
        ["teacher", "a-teacher (folder)", "", "Apache-2.0", "README.md"],
        ["text", "sources (files)", "", "not stated", ""],
        ["data", "moods (files)", "", "CC BY 4.0 (see its page)", "SOURCE.md"],
        ["this model", "tiny", "", "not stated", ""],
        ["code in `code/`", "Retort", "", "Apache-2.0", "the metadata of retort 0.1.0"],
    ]


def test_it_says_how_much_data_there_was_and_its_digests(facts: VersionFacts) -> None:
    told = render_card(facts)
    digests = origin(facts, "data").digests
    assert rows(told, "What it was made of")[7:] == [
        ["train", "train.jsonl", "900", "25 %", f"`{digests['train']}`"],
        ["dev", "dev.jsonl", "100", "0 %", f"`{digests['dev']}`"],
        ["test", "test.jsonl", "1,821", "", f"`{digests['test']}`"],
    ]
    assert "- Of the reported split (test), 7 texts occur in train as well." in told
    assert "- Unlabelled text: 6,029 tokens were distilled on." in told
    for each in facts.origins:
        assert f"- Digest of the {each.role}: `{each.digest}`." in told


def test_it_says_how_good_it_is_with_intervals_beside_the_teacher(facts: VersionFacts) -> None:
    told = render_card(facts)
    assert rows(told, "How good it is")[1:] == [["`accuracy`", "0.878 [0.868, 0.888]", "0.9 [0.89, 0.91]"]]
    assert "- Of the first figure it lost, beside its own fp32: 0.002 [-0.001, 0.005]." in told
    assert "- Share of the texts that it answers as the teacher does: 0.96 [0.95, 0.97]." in told
    assert "differed from it by 1.5e-07 at most on 256 texts, and in 0 labels." in told


def test_it_says_how_fast_it_is_at_each_target_with_the_machine_and_n(tmp_path: Path) -> None:
    facts = facts_in(tmp_path, earned_steps(tmp_path / "steps", targets=("here", "edge")))
    told = render_card(facts)
    for session in facts.sessions:
        part = told.partition(f"### {session.target}\n")[2]
        assert "Testor 9000, 2 cores, 8,192 MB; 1 thread" in part
        assert session.receipt[:16] in part
    long = facts.first.times[0].percentiles
    assert rows(told, "How fast it is")[1] == [
        *("64 tokens", interval(long["p50"]), interval(long["p95"]), "", "500", "5"),
    ]
    assert "From the start of a process to the first answer: 200 [100, 300] ms" in told


def test_times_that_settle_nothing_say_so(facts: VersionFacts) -> None:
    assert "Noise was found" not in render_card(facts)
    noisy = msgspec.structs.replace(facts.first, noise="a neighbour took 31.0%")
    told = render_card(msgspec.structs.replace(facts, sessions=(noisy,)))
    assert "**Noise was found, so these times settle nothing:** a neighbour took 31.0%." in told


def test_it_says_its_limits(facts: VersionFacts) -> None:
    told = render_card(facts)
    for limit in (
        "- Texts are cut at 16 tokens, special ones included; what lies beyond has no say in the answer.",
        "- A request holds at most 64 items of at most 20,000 characters.",
        "- Languages: en, de (stated of the teacher). Others were not measured.",
        "- The server computes every item alone. Computed beside others, an output moved by up to 0.25, and 0.5 % of "
        "the probed answers changed.",
        "- It was made from a checkout with uncommitted changes, so its source cannot be had again for certain.",
    ):
        assert limit in told
    assert "is refused" not in told
    assert "It needs a CPU" not in told


def test_limits_that_only_some_have_are_said_of_those(tmp_path: Path) -> None:
    steps = earned_steps(tmp_path / "steps", refuse_below=0.75)
    told = render_card(facts_in(tmp_path, steps))
    assert "- An answer less sure than 0.75 is refused." in told
    assert "- Languages: not stated by any of its sources. Others were not measured." in told
    needs = msgspec.structs.replace(facts_in(tmp_path, steps).spec, cpu_features=("avx2", "avx512_vnni"))
    told = render_card(msgspec.structs.replace(facts_in(tmp_path, steps), spec=needs))
    assert r"- It needs a CPU with avx2, avx512\_vnni." in told


def test_it_says_how_to_use_it_and_how_it_was_earned(facts: VersionFacts) -> None:
    told = render_card(facts)
    assert 'model = mlflow.pyfunc.load_model("models:/tiny@champion")' in told
    assert """localhost:8080/classify -H 'content-type: application/json' -d '{"texts": ["First text.", """ in told
    assert 'retort serve "models:/tiny@champion"' in told
    steps = rows(told, "How it was earned")[1:]
    assert [row[0] for row in steps] == [step.label for step in facts.steps]
    assert steps[0][1:] == [
        "`distill-0123456789abcdef`",
        f"`{facts.steps[0].digest[:16]}`",
        "`c0ffeec0ffee`",
        "2026-01-01T00:00:00+00:00",
        "12.5",
    ]
    assert steps[2][3] == "`c0ffeec0ffee`, with changes"
    assert told.endswith("Made with onnxruntime 1.31.1, torch 2.13.0.\n")


@pytest.mark.parametrize("task", LABELS)
def test_every_task_has_a_card(tmp_path: Path, task: TaskKind) -> None:
    facts = facts_in(tmp_path, earned_steps(tmp_path / "steps", task=task))
    told = render_card(facts)
    assert f"| task | {task} |" in told
    assert ("| labels |" in told) == bool(LABELS[task])
    assert ("| vector | 3 numbers |" in told) == (task == "embedding")
    assert "None" not in told


def test_a_model_of_pairs_says_so_and_shows_pairs(tmp_path: Path) -> None:
    told = render_card(facts_in(tmp_path, earned_steps(tmp_path / "steps", texts_per_item=2)))
    assert "It gives a pair of texts one label of several" in told
    assert 'model.predict([["First text.", "Its other text."], ["Second text.", "Its other text."]])' in told


def test_many_labels_are_counted_and_some_shown(tmp_path: Path) -> None:
    labels = tuple(f"label-{index}" for index in range(150))
    told = render_card(facts_in(tmp_path, earned_steps(tmp_path / "steps", labels=labels)))
    assert f"| labels | 150: {', '.join(f'`{label}`' for label in labels[:LABELS_SHOWN])}, ... |" in told


def test_the_ways_to_use_it_name_the_alias_that_the_model_is_served_by(facts: VersionFacts) -> None:
    assert render_card(facts).count("models:/tiny@champion") == 3
    told = render_card(msgspec.structs.replace(facts, alias="live"))
    assert (told.count("models:/tiny@live"), told.count("champion")) == (3, 0)


# -- no number of its own ----------------------------------------------------------------------------------------------


def test_the_template_has_no_figure_of_its_own() -> None:
    source = (Path(card.__file__).parent / TEMPLATE).read_text(encoding="utf-8")
    words = re.sub(r"\{[{%#].*?[}%#]\}", "", source, flags=re.DOTALL)
    for known in DIGITS_OF_ITS_OWN:
        words = words.replace(known, "")
    assert re.findall(r"\S*\d\S*", words) == []


def test_every_number_of_the_card_is_one_that_is_known(facts: VersionFacts) -> None:
    known = {number(float(found)) for found in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", as_json(facts))}
    known |= {number(100 * value) for value in (0.25, 0.0, 0.005)}  # shares, told in percent
    known |= {number(facts.size_bytes / 1e6), number(len(facts.spec.labels))}
    told = render_card(facts).partition("## How good it is")[2].partition("## How to use it")[0]
    for own in (*DIGITS_OF_ITS_OWN, *(each.receipt[:16] for each in facts.sessions), facts.first.started, "3.11.9"):
        told = told.replace(own, "")
    told = told.replace("1.31.0", "")
    shown = re.findall(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", told)
    assert len(shown) > 50
    assert {each for each in shown if number(float(each.replace(",", ""))) not in known} == set()


# -- other people's words ----------------------------------------------------------------------------------------------

EVIL = "<script>x</script> | [a](http://b) `c` *d*\n# e"


def test_other_people_s_words_are_no_markup(facts: VersionFacts) -> None:
    origins = tuple(
        msgspec.structs.replace(each, name=EVIL, licence=Licence(EVIL, EVIL), languages=(EVIL,))
        for each in facts.origins
    )
    spec = msgspec.structs.replace(facts.spec, labels=(EVIL, "b"))
    plain = render_card(facts)
    told = render_card(msgspec.structs.replace(facts, origins=origins, spec=spec))
    assert not re.search(r"(?<!\\)<script", told.replace("`<script", ""))
    assert "](http" not in told.replace(r"\]", "").replace("`<script>x</script> \\| [a](http", "")
    assert [line.count(" | ") for line in told.splitlines() if line.startswith("| teacher ")] == [4]
    headings = [line for line in told.splitlines() if line.startswith("#")]
    assert headings == [line for line in plain.splitlines() if line.startswith("#")]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("a_b*c", r"a\_b\*c"),
        ("<b>", r"\<b\>"),
        ("a | b", r"a \| b"),
        ("a\n# b", r"a \# b"),
        ("`x`", r"\`x\`"),
        (3, "3"),
    ],
)
def test_words_lose_their_markup(words: object, shown: str) -> None:
    assert text(words) == shown


def test_a_code_span_ends_where_it_should() -> None:
    assert code("a`b|c\nd") == r"`a'b\|c d`"
    assert code("") == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.87654, "0.8765"),
        (-0.0, "0"),
        (-0.00001, "-1e-05"),
        (12345.6, "12,346"),
        (9999.4, "9999"),
        (1.0, "1"),
        (2, "2"),
    ],
)
def test_a_number_has_four_figures(value: float, shown: str) -> None:
    assert number(value) == shown


def test_an_interval_stands_beside_its_value_where_there_is_one() -> None:
    assert interval(Figure("a", 0.5, 0.4, 0.6)) == "0.5 [0.4, 0.6]"
    assert interval(Figure("a", 0.5)) == "0.5"
    assert interval(Figure("a", 0.5, low=0.4)) == "0.5 [0.4, not known]"


# -- its head ----------------------------------------------------------------------------------------------------------


def test_the_head_ends_before_the_second_heading(facts: VersionFacts) -> None:
    told = render_card(facts)
    head = card_head(told)
    assert told.startswith(head)
    assert "| gate |" in head
    assert "##" not in head


def test_a_long_head_is_cut_to_what_a_registry_keeps() -> None:
    head = card_head(f"# a\n\n{'word ' * 2000}\n\n## b\n")
    assert len(head) <= HEAD_CHARACTERS < 5000
    assert head.endswith("word ...")


def test_the_card_is_what_people_open_first() -> None:
    assert CARD == "README.md"
