"""Steps of one group are made together in one call, each under its own key; a process of a team sees what rank 0 has.

The stage here is a fake: `one` and `together` write the configs' tags, and note what they were called with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pipeline import keys, walk
from pipeline.artifact import Artifact, verify
from pipeline.errors import BadArtifact
from pipeline.graph import Inputs, Step, Tools
from pipeline.progress import Silent
from pipeline.record import Unrecorded
from pipeline.records import Record
from pipeline.store import key_lock
from pipeline.team import Team
from pipeline.walk import Walk
from pipeline.workspace import Workspace

T = TypeVar("T")
Job = tuple["FakeConfig", Path, Tools]


class FakeConfig(Record):
    tag: str


@dataclass(frozen=True)
class FakeText:
    text: str = "text"

    def identity(self, cache: Path) -> str:
        return self.text


@dataclass
class FakeStage:
    """Notes what each call was given; `trouble` is raised by the next call, after half of its work."""

    fresh_for: None = None
    place: None = None
    teamed: bool = True
    libraries: tuple[str, ...] = ()

    @staticmethod
    def open(facts: Mapping[str, Any]) -> bool:
        return False

    def __post_init__(self) -> None:
        self.calls: list[list[Tools]] = []
        self.trouble: Exception | None = None

    def run_jobs(self, jobs: Sequence[Job], inputs: Inputs) -> list[dict[str, Any]]:
        self.calls.append([tools for _, _, tools in jobs])
        for config, out, _ in jobs:
            (out / "out").write_text(config.tag)
            if self.trouble is not None:
                raise self.trouble
        return [{"together": len(jobs)} for _ in jobs]

    @property
    def labels(self) -> list[list[str]]:
        return [[tools.label for tools in call] for call in self.calls]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> FakeStage:
    found = FakeStage()
    for module in (keys, walk):
        monkeypatch.setattr(module, "STAGES", {"distill": found, "lonely": replace(found, teamed=False)})
    return found


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "work")


def step(name: str, *, stage: str = "distill") -> Step:
    return Step(stage, f"distill-{name}", FakeConfig(tag=name), {}, {"text": FakeText()}, group="one pass")


def steps(names: str) -> list[Step]:
    return [step(name) for name in names]


def obtain(place: Workspace, names: str, **changes: Any) -> tuple[dict[str, bool], dict[str, Artifact]]:
    found = Walk(place, Silent(), **changes)
    executed = found.obtain(steps(names), may_run=True)
    return executed, found.done


def test_the_steps_of_a_group_are_made_in_one_call_and_each_is_sealed_under_its_own_key(
    place: Workspace, stage: FakeStage
) -> None:
    executed, done = obtain(place, "abc")
    assert stage.labels == [["distill-a", "distill-b", "distill-c"]]
    assert executed == {"distill-a": True, "distill-b": True, "distill-c": True}
    for name in "abc":
        artifact = done[f"distill-{name}"]
        verify(artifact)
        assert (artifact.path / "out").read_text() == name
        assert artifact.path.name == artifact.manifest.key == Walk(place, Silent()).key(step(name))
        assert (artifact.manifest.label, artifact.manifest.config) == (f"distill-{name}", {"tag": name})
        assert artifact.manifest.facts == {"together": 3}


def test_who_records_is_told_when_steps_begin_and_when_each_is_sealed_and_stages_where_it_waits(
    place: Workspace, stage: FakeStage, tmp_path: Path
) -> None:
    told: list[tuple[str, str, Any]] = []

    class Told(Unrecorded):
        outbox = tmp_path

        def started(self, step: Step, key: str, digests: Mapping[str, str]) -> None:
            told.append(("started", step.label, (key, digests)))

        def sealed(self, step: Step, artifact: Artifact, digests: Mapping[str, str]) -> None:
            told.append(("sealed", step.label, (artifact.path.name, digests)))

    _, done = obtain(place, "ab", record=Told())
    both = {label: (done[label].manifest.key, {"text": "text"}) for label in ("distill-a", "distill-b")}
    assert told == [(what, label, both[label]) for what in ("started", "sealed") for label in both]
    assert [tools.outbox for tools in stage.calls[0]] == [tmp_path, tmp_path]
    obtain(place, "ab", record=Told())
    assert len(told) == 4  # what is taken is not made


def test_a_stage_is_told_who_runs_it(place: Workspace, stage: FakeStage) -> None:
    obtain(place, "a", who="zoë")
    assert [tools.who for tools in stage.calls[0]] == ["zoë"]


def test_a_stage_is_told_what_identifies_its_code_and_libraries(
    place: Workspace, stage: FakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it keeps for other runs is kept under that."""
    obtain(place, "a")
    obtain(place, "b")
    monkeypatch.setattr(walk, "versions", lambda stage: {"torch": "another"})
    obtain(place, "c")
    one, same, other = (tools.code for call in stage.calls for tools in call)
    assert one == same != other


def test_the_finished_of_a_group_are_taken_and_the_others_are_made_together(place: Workspace, stage: FakeStage) -> None:
    _, before = obtain(place, "b")
    executed, done = obtain(place, "abc")
    assert stage.labels == [["distill-b"], ["distill-a", "distill-c"]]
    assert executed == {"distill-a": True, "distill-b": False, "distill-c": True}
    assert done["distill-b"] == before["distill-b"]
    executed, again = obtain(place, "cab")
    assert len(stage.calls) == 2
    assert set(executed.values()) == {False}
    assert again == done


def test_a_step_made_in_a_group_is_the_one_that_is_made_alone(
    place: Workspace, stage: FakeStage, tmp_path: Path
) -> None:
    _, together = obtain(place, "ab")
    _, alone = obtain(Workspace.open(tmp_path / "other"), "a")
    assert together["distill-a"].manifest.key == alone["distill-a"].manifest.key
    assert together["distill-a"].digest == alone["distill-a"].digest


def test_where_a_group_s_call_fails_nothing_is_sealed_and_it_is_made_again_whole(
    place: Workspace, stage: FakeStage
) -> None:
    stage.trouble = BadArtifact("the text is empty")
    with pytest.raises(BadArtifact, match="the text is empty"):
        obtain(place, "ab")
    assert [place.store.get(Walk(place, Silent()).key(one)) for one in steps("ab")] == [None, None]
    stage.trouble = None
    obtain(place, "ab")
    assert stage.labels == [["distill-a", "distill-b"]] * 2
    assert [path.name for path in (place.root / "artifacts").glob(".*")] == []


def test_a_group_that_may_not_run_names_the_first_that_is_missing(place: Workspace, stage: FakeStage) -> None:
    obtain(place, "a")
    with pytest.raises(BadArtifact) as refused:
        Walk(place, Silent()).obtain(steps("abc"), may_run=False)
    assert str(refused.value) == (
        "distill-b is not finished, and this stage reads it; run `retort stage distill-b` first"
    )


def test_groups_of_other_members_have_checkpoints_of_their_own(place: Workspace, stage: FakeStage) -> None:
    stage.trouble = BadArtifact("interrupted")
    for names in ("ac", "abc", "c", "ac"):  # all with the same last member
        with pytest.raises(BadArtifact, match="interrupted"):
            obtain(place, names)
    folders = [{tools.checkpoints for tools in call} for call in stage.calls]
    assert [len(each) for each in folders] == [1, 1, 1, 1]  # a group has one
    assert folders[0] == folders[3]
    assert len(folders[0] | folders[1] | folders[2]) == 3


@pytest.mark.parametrize("names", ["ab", "a"])
def test_the_checkpoints_of_a_group_go_when_its_last_member_is_sealed(
    place: Workspace, stage: FakeStage, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[list[str]] = []
    publish = type(place.store).publish

    def published(store: Any, key: str, manifest: Any) -> Artifact:
        left.append(sorted(path.name for path in (place.root / "checkpoints").rglob("*.pt")))
        return publish(store, key, manifest)

    def trained(jobs: Sequence[Job], inputs: Inputs) -> list[dict[str, Any]]:
        jobs[0][2].checkpoints.mkdir(parents=True)
        (jobs[0][2].checkpoints / "step-1.pt").touch()
        return [{} for _ in jobs]

    monkeypatch.setattr(type(place.store), "publish", published)
    monkeypatch.setattr(stage, "run_jobs", trained)
    obtain(place, names)
    assert left == [["step-1.pt"]] * len(names)
    assert list((place.root / "checkpoints").rglob("*.pt")) == []


def test_a_group_waits_for_each_member_that_another_process_is_at_and_then_takes_it(
    place: Workspace, stage: FakeStage, tmp_path: Path
) -> None:
    """The other process makes b while this one waits for its lock."""

    class Other(Silent):
        said: list[str] = []  # noqa: RUF012

        def line(self, text: str) -> None:
            if text.endswith("waiting"):
                self.said.append(text)
                held.__exit__(None, None, None)

    key = Walk(place, Silent()).key(step("b"))
    held = key_lock(place.root, key, waiting=lambda: None)
    held.__enter__()
    made = Walk(place, Silent())
    found = Walk(place, Other(), before_work=lambda: made._execute([step("b")], of=[step("b")]))
    assert found.obtain(steps("ab"), may_run=True) == {"distill-a": True, "distill-b": False}
    assert Other.said == ["distill-b: another process is at it; waiting"]
    assert stage.labels == [["distill-b"], ["distill-a"]]


@dataclass(frozen=True)
class Follower(Team):
    """Rank 1, told beforehand what rank 0 says."""

    rank: int = 1
    size: int = 2
    told: tuple[Any, ...] = ()

    def leaders(self, make: Callable[[], T]) -> T:
        said: list[Any] = FOLLOWED
        return said.pop(0)  # type: ignore[no-any-return]


FOLLOWED: list[Any] = []


def followed(place: Workspace, *told: Any) -> Walk:
    FOLLOWED[:] = told
    return Walk(place, Silent(), team=Follower())


def key_of(name: str, place: Workspace) -> dict[str, str]:
    return {f"distill-{name}": Walk(place, Silent()).key(step(name))}


def test_a_follower_takes_what_rank_0_has_and_works_at_nothing(place: Workspace, stage: FakeStage) -> None:
    obtain(place, "a")
    found = followed(place, key_of("a", place), ["distill-a"])
    assert found.obtain([step("a")], may_run=True) == {"distill-a": False}
    assert (len(stage.calls), FOLLOWED) == (1, [])
    assert "distill-a" in found.done


def test_a_follower_helps_and_leaves_nothing_in_the_workspace(
    place: Workspace, stage: FakeStage, tmp_path: Path
) -> None:
    obtain(Workspace.open(tmp_path / "rank-0"), "a")
    keys = key_of("a", place)
    found = followed(place, keys, [], keys, [], None)
    with pytest.raises(BadArtifact) as refused:
        found.obtain([step("a")], may_run=True)
    assert len(stage.calls) == 2
    assert stage.calls[1][0].team is found.team
    assert list(place.root.rglob("out")) == []
    assert list(place.root.rglob("*.lock")) == []
    assert str(refused.value) == ("distill-a: rank 0 has it and process 1 does not see it; give them one workspace")


def test_a_follower_that_reads_other_inputs_than_rank_0_is_refused_before_it_works(
    place: Workspace, stage: FakeStage
) -> None:
    with pytest.raises(BadArtifact) as refused:
        followed(place, {"distill-a": "distill-0"}).obtain([step("a")], may_run=True)
    assert str(refused.value) == ("distill-a: process 1 finds other code or inputs than rank 0; give them the same")
    assert stage.calls == []


def test_what_rank_0_makes_alone_it_makes_without_a_word_to_the_others(place: Workspace, stage: FakeStage) -> None:
    class Alone(Team):
        def leaders(self, make: Callable[[], T]) -> T:
            pytest.fail("nobody listens")

    found = Walk(place, Silent(), team=Alone(rank=0, size=2))
    found.obtain([step("a", stage="lonely")], may_run=True)
    assert found.done["distill-a"].manifest.stage == "lonely"
