"""A sweep from end to end on a tiny bundle: what its processes are asked, the file it leaves, and a server that would
follow it."""

from pathlib import Path

import msgspec
import pytest
from fakes import tiny_bundle

from benchmarks import tune as tuning_module
from benchmarks.machine import affinity
from benchmarks.openloop.engine import EngineJob
from benchmarks.openloop.plan import Plan
from benchmarks.openloop.results import Rate, ServerResult
from benchmarks.tune import build_table, read_requests, told_left_out, tune
from serving.bundle import Item, read_bundle
from serving.choosing import choose_setting
from serving.engine import Engine
from serving.errors import BadArtifact, BadRequest, Failure, Transient
from serving.machine import machine_identity
from serving.tuning import Alone, Setting, Together, find_tuning, most_earned

# No speed is asserted, so a rate may be judged by its median and held shortly.
QUICK = Plan(bound_ms=500.0, percent=50, start_rps=50.0, steps=2, seconds=0.2, warm_s=0.1, most_s=5.0)
REQUESTS = [[("good",)], [("bad good",)]]
SEVERAL = [[("good",), ("bad good",)]]


class Children:
    """Stands for the processes: each setting earns as many requests a second as it has executors, times 100."""

    def __init__(self) -> None:
        self.jobs: list[EngineJob] = []

    def __call__(self, job: EngineJob, **how: object) -> ServerResult:
        self.jobs.append(job)
        assert how["module"] == "benchmarks.openloop.engine"
        rps = 100.0 * job.setting.executors
        point = Rate(rps, 3.0, 1000, 1000, 0, 0, 5.0, 9.0, 12.0, late_p50_ms=0.1, late_p99_ms=0.2)
        return ServerResult("engine", job.plan.bound_ms, job.plan.percent, rps, (point,))


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    """And one core: one split of it, and one variation."""
    children = Children()
    monkeypatch.setattr(tuning_module, "run_child", children)
    monkeypatch.setattr(tuning_module, "usable_threads", lambda: 1)
    return children


def test_a_sweep_leaves_a_file_that_a_server_here_follows_and_the_bundle_as_it_was(
    tmp_path: Path, children: Children
) -> None:
    before = tiny_bundle(tmp_path)
    found = tune(tmp_path, REQUESTS, plan=QUICK)
    assert read_bundle(tmp_path).digest == before.digest == found.bundle
    assert (found.machine, found.target, found.percent, found.bound_ms) == (machine_identity(), "here", 50, 500.0)
    assert found.setting == Setting(sessions=1, threads=1, executors=2)
    assert found.libraries["onnxruntime"]
    assert find_tuning(tmp_path, digest=before.digest, machine=machine_identity(), threads=1).tuning == found
    assert choose_setting(before, threads=None) == found.setting


def test_each_setting_is_asked_about_in_a_process_of_its_own_from_half_of_what_the_last_one_earned(
    tmp_path: Path, children: Children
) -> None:
    tiny_bundle(tmp_path)
    tune(tmp_path, REQUESTS, plan=QUICK, queue=7)
    assert [job.setting.executors for job in children.jobs] == [1, 2, 1, 2]
    assert [job.plan.start_rps for job in children.jobs] == [50.0, 50.0, 100.0, 50.0]
    (first, *_) = children.jobs
    assert (first.path, first.queue, first.cores) == (str(tmp_path), 7, affinity())
    assert first.requests == ((("good",),), (("bad good",),))
    assert msgspec.json.decode(msgspec.json.encode(first), type=EngineJob) == first


def test_requests_of_several_items_are_also_measured_together(tmp_path: Path, children: Children) -> None:
    tiny_bundle(tmp_path)
    found = tune(tmp_path, SEVERAL, plan=QUICK)
    assert {each.setting.batch for each in found.earned} == {Alone(), Together(2)}


def test_a_batch_policy_that_moves_answers_is_not_measured(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path)
    monkeypatch.setattr("serving.instances.INVARIANT", -1.0)
    assert {each.setting.batch for each in tune(tmp_path, SEVERAL, plan=QUICK).earned} == {Alone()}


def test_real_processes_answer_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_bundle(tmp_path)
    monkeypatch.setattr(tuning_module, "usable_threads", lambda: 1)
    try:
        found = tune(tmp_path, SEVERAL, plan=QUICK)
    except Transient as busy:
        pytest.skip(f"this machine is too busy to be measured: {busy}")
    best = most_earned(found.earned)
    assert best is not None
    assert best.setting == found.setting
    assert best.rps >= QUICK.start_rps / 2


def test_no_more_threads_are_used_than_are_allowed(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_bundle(tmp_path)
    monkeypatch.setattr(tuning_module, "usable_threads", lambda: 64)
    tune(tmp_path, REQUESTS, plan=QUICK, threads=1)
    assert {job.setting.threads * job.setting.sessions for job in children.jobs} == {1}


def test_the_table_has_every_setting_in_the_order_of_what_it_earned(tmp_path: Path, children: Children) -> None:
    tiny_bundle(tmp_path)
    table = build_table(tune(tmp_path, SEVERAL, plan=QUICK))
    columns = {column.header: list(column.cells) for column in table.columns}
    assert columns["executors"][0] == "2"
    assert columns["requests/s"][0] == "200, 200"
    assert columns[""] == ["chosen", "", ""]
    assert columns["items"] == ["each item alone", "each item alone", "up to 2 items of a request together"]
    assert table.title == "requests/s within p50 <= 500 ms; finalists were measured twice"


def test_a_folder_that_is_not_there_yet_is_made(tmp_path: Path, children: Children) -> None:
    tiny_bundle(tmp_path / "bundle")
    found = tune(tmp_path / "bundle", REQUESTS, plan=QUICK, out=tmp_path / "a" / "b", target="c2.small")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["tuning@c2.small.json"]
    assert not list((tmp_path / "bundle").glob("tuning@*"))
    assert found.target == "c2.small"


def test_where_the_tuning_could_not_be_kept_nothing_is_measured(tmp_path: Path, children: Children) -> None:
    tiny_bundle(tmp_path / "bundle")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest) as refused:
        tune(tmp_path / "bundle", REQUESTS, plan=QUICK, out=tmp_path / "file" / "out")
    assert str(refused.value) == (
        f"--out {tmp_path / 'file' / 'out'} cannot be made (Not a directory); name another folder"
    )
    with pytest.raises(BadRequest, match="target 'a/b' makes no file name"):
        tune(tmp_path / "bundle", REQUESTS, plan=QUICK, target="a/b")
    assert children.jobs == []


@pytest.mark.parametrize("requests", [[], [[("good",)], []]])
def test_a_sweep_without_requests_is_refused(tmp_path: Path, requests: list[list[tuple[str]]]) -> None:
    with pytest.raises(BadRequest) as refused:
        tune(tmp_path, requests)
    assert str(refused.value) == (f"a sweep needs requests of one item or more: got {len(requests)}; give it texts")


@pytest.mark.parametrize(
    ("texts_per_item", "requests", "told"),
    [
        (
            2,
            [[("good", "bad")], [("good",)]],
            "'good' is of an item of 1 text(s), the bundle takes 2: give lines of two",
        ),
        (1, [[("good", "bad")]], "'good' is of an item of 2 text(s), the bundle takes 1: give lines without a tab"),
    ],
)
def test_texts_of_another_form_are_refused_before_the_search(
    tmp_path: Path, children: Children, texts_per_item: int, requests: list[list[Item]], told: str
) -> None:
    tiny_bundle(tmp_path, task="regression", texts_per_item=texts_per_item)
    with pytest.raises(BadRequest) as refused:
        tune(tmp_path, requests, plan=QUICK)
    assert str(refused.value).startswith(told)
    assert children.jobs == []


def test_a_request_that_is_not_answered_is_refused_before_the_search(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BadRequest("item 0 has no token this model can read; send some text")

    tiny_bundle(tmp_path)
    monkeypatch.setattr(Engine, "answer", refuse)
    with pytest.raises(BadRequest) as refused:
        tune(tmp_path, REQUESTS, plan=QUICK)
    assert str(refused.value) == (
        "the first request is not answered: item 0 has no token this model can read; send some text; give it texts as "
        "are served"
    )
    assert children.jobs == []


def test_a_bundle_that_answers_nan_is_refused_before_the_search(tmp_path: Path, children: Children) -> None:
    tiny_bundle(tmp_path)
    with pytest.raises(BadArtifact, match="gave NaN or infinity"):
        tune(tmp_path, [[("poison",)]], plan=QUICK)
    assert children.jobs == []


def test_texts_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes("fine\ncafé\n".encode("latin-1"))
    with pytest.raises(BadRequest) as refused:
        read_requests(tmp_path / "texts.txt", items=1)
    assert str(refused.value) == f"{tmp_path / 'texts.txt'} is not UTF-8 from byte 8 on; write it in UTF-8"


def test_a_setting_whose_process_died_is_left_out_and_told(
    tmp_path: Path, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(job: EngineJob, **how: object) -> ServerResult:
        if job.setting.executors == 2:
            raise Failure("measuring it: the process was ended by SIGKILL")
        return children(job, **how)

    tiny_bundle(tmp_path)
    monkeypatch.setattr(tuning_module, "run_child", dying)
    told: list[str] = []
    found = tune(tmp_path, REQUESTS, plan=QUICK, left_out=lambda each, why: told.append(told_left_out(each, why)))
    assert found.setting == Setting()
    assert told == [
        "1 session of 1 thread, 2 executors, each item alone: left out: measuring it: the process was ended by SIGKILL"
    ]
    assert find_tuning(tmp_path, digest=found.bundle, machine=machine_identity(), threads=1).tuning == found


def test_what_is_no_bundle_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=r"is not a bundle: it has no manifest\.sha256"):
        tune(tmp_path, REQUESTS, plan=QUICK)


def test_a_sealed_step_is_left_as_it_is(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BadRequest) as refused:
        tune(bundle.path, REQUESTS, plan=QUICK)
    assert str(refused.value) == (
        f"{bundle.path} is part of a sealed step, which one file more would break; copy the bundle and sweep the copy, "
        "or name another folder with --out"
    )


def test_lines_become_requests_of_so_many_items(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\nquestion\tanswer\n \nthree\n")
    assert read_requests(texts, items=1) == ((("one",),), (("question", "answer"),), (("three",),))
    assert read_requests(texts, items=2) == ((("one",), ("question", "answer")),)
    with pytest.raises(BadRequest) as refused:
        read_requests(texts, items=4)
    assert str(refused.value) == f"{texts} has 3 texts, too few for a request of 4; add texts"
