"""Two receipts side by side: what is found, what is said, what is refused."""

import msgspec
import pytest
from receipts import INT8, MACHINE, NOISE, SMALL, TEACHER, figures_of, measured, receipt, samples_ns, server
from rich.console import Console

from benchmarks.changes import changes_of, quality_changes
from benchmarks.compare import compare
from benchmarks.comparison import QualityChange, build_table
from benchmarks.measure import TOTAL
from benchmarks.receipt import Receipt
from serving.errors import BadArtifact, BadRequest


def another_day(*, ms: float, **changes: object) -> Receipt:
    """The teacher's file as it was, and another int8 file of this speed."""
    return receipt([measured(TEACHER, seed=7), measured(INT8, ms=ms, digest="new", seed=8)], **changes)


def test_b_is_held_against_a_in_figures_with_intervals() -> None:
    found = compare(receipt(), another_day(ms=2.2))
    int8 = next(each for each in found.variants if each.b == INT8)
    figures = {change.figure: change for change in int8.changes}
    assert list(figures) == [
        *("p50_ms", "p95_ms", "p50_ms_short", "p95_ms_short", "p50_ms_real", "p95_ms_real", "p99_ms_real"),
        *("cold_start_ms", "rss_mb", "size_mb"),
    ]
    p95 = figures["p95_ms"]
    assert p95.low is not None
    assert p95.high is not None
    assert p95.low < p95.ratio < p95.high < 1
    assert p95.ratio == pytest.approx(0.88, abs=0.02)
    assert (figures["size_mb"].a, figures["size_mb"].b, figures["size_mb"].low) == (22.5, pytest.approx(19.8), None)


def test_the_verdict_is_a_sentence_a_variant_the_changed_ones_first() -> None:
    quality = {INT8: QualityChange("accuracy", -0.001, -0.0021, 0.0005, paired=True)}
    found = compare(receipt(), another_day(ms=2.2), quality=quality)
    changed, same = found.sentences
    assert changed.startswith("student-onnx-int8: B is 1")
    assert " % faster at p95 (" in changed
    assert changed.endswith(" %), accuracy unchanged within 0.3 points")
    assert same.startswith("teacher-onnx-fp32: the same file in both; ")
    assert {each.b: each.times for each in found.variants}[INT8] == "faster"


def test_files_of_one_speed_are_not_told_apart() -> None:
    found = compare(receipt(), another_day(ms=2.5))
    assert {each.b: each.times for each in found.variants}[INT8] == "no difference seen"


def test_a_slower_day_is_not_taken_for_a_slower_model() -> None:
    slow_day = receipt([measured(TEACHER, ms=11.0, seed=7), measured(INT8, ms=2.7, digest="new", seed=8)])
    found = compare(receipt(), slow_day)
    assert {each.b: each.times for each in found.variants} == {TEACHER: "slower", INT8: "unknown"}
    assert ", but a file that is the same in both may differ by " in found.sentences[0]


def test_variants_are_paired_by_name_and_the_others_are_told() -> None:
    found = compare(receipt(), another_day(ms=2.2))
    assert [(each.a, each.b) for each in found.variants] == [(TEACHER, TEACHER), (INT8, INT8)]
    assert f"Not compared, only in A: {SMALL}." in found.notes


def test_two_that_are_alone_belong_together_whatever_their_names() -> None:
    found = compare(receipt([measured(INT8)]), receipt([measured("other", ms=2.0)]))
    assert found.sentences[0].startswith("other beside student-onnx-int8: B is 2")


def test_variants_of_one_receipt_are_compared_repeat_by_repeat() -> None:
    drifting = [5.0, 6.0, 7.0, 8.0, 9.0]
    slow = {n: {TOTAL: tuple(samples_ns(ms, processes=1)[0] for ms in drifting)} for n in (16, 64)}
    fast = {n: {TOTAL: tuple([int(0.9 * ns) for ns in one] for one in each[TOTAL])} for n, each in slow.items()}
    both = receipt([measured(SMALL, samples_ns=slow), measured(INT8, samples_ns=fast)])
    (found,) = compare(both, both, pairs=[(SMALL, INT8)]).variants
    p50 = found.changes[0]
    assert (p50.low, p50.high) == (pytest.approx(0.9, abs=1e-6), pytest.approx(0.9, abs=1e-6))
    assert found.times == "faster"


def test_a_receipt_beside_itself_is_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        compare(receipt(), receipt())
    assert str(caught.value) == (
        "A and B are the same receipt: name two, or say which of its variants to compare with --pair A_NAME=B_NAME"
    )


def test_different_machines_are_refused_with_what_differs() -> None:
    other = another_day(ms=2.2, machine={"cpu_model": "Other 1", "features": ("avx2", "amx_int8"), "quota_cores": 1.5})
    with pytest.raises(BadRequest) as caught:
        compare(receipt(), other)
    assert str(caught.value) == (
        "A and B were measured on different machines (cpu model Testor 9000 in A, Other 1 in B; features avx512_vnni "
        "only in A, amx_int8 only in B; quota cores none in A, 1.5 in B), so their times say nothing about the models: "
        "measure both on one machine, or compare all the same with --across-machines"
    )


def test_different_machines_are_compared_when_asked_and_the_notes_say_so() -> None:
    found = compare(receipt(), another_day(ms=2.2, machine={"cores": 64}), across_machines=True)
    assert found.notes[0] == (
        "Different machines (cores 2 in A, 64 in B): the ratios are of model and machine together."
    )


def test_other_circumstances_are_told_and_no_reason_to_refuse() -> None:
    other = another_day(
        ms=2.2, machine={"governor": "performance", "libraries": {"onnxruntime": "1.32.0", "torch": "2"}}
    )
    other = msgspec.structs.replace(other, how=msgspec.structs.replace(other.how, threads=2, items=10))
    assert [note for note in compare(receipt(), other).notes if "Circumstances" in note] == [
        "Circumstances differ: threads 1 in A, 2 in B.",
        "Circumstances differ: texts judged 3000 in A, 10 in B.",
        "Circumstances differ: governor unknown in A, performance in B.",
        "Circumstances differ: onnxruntime 1.31.0 in A, 1.32.0 in B.",
        "Circumstances differ: torch none in A, 2 in B.",
    ]
    assert MACHINE.governor == "unknown"


def test_a_disturbed_session_gives_no_verdict_on_times_and_says_why() -> None:
    found = compare(receipt(findings=(NOISE,)), another_day(ms=1.0))
    assert found.sentences[0] == "student-onnx-int8: no verdict on times, as A's session was disturbed"
    assert f"A: noise in 1 of 15 processes after 1 attempt: {NOISE.told}." in found.notes


def test_receipts_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(BadRequest) as caught:
        compare(receipt([measured(SMALL), measured(INT8)]), receipt([measured(TEACHER)]))
    assert str(caught.value) == (
        "A has student-onnx-fp32, student-onnx-int8 and B has teacher-onnx-fp32: no variant is in both; say which "
        "belong together with --pair A_NAME=B_NAME"
    )
    other = another_day(ms=2.2)
    load = msgspec.structs.replace(other.how.load, lengths=(32, 128))
    other = msgspec.structs.replace(other, how=msgspec.structs.replace(other.how, load=load))
    with pytest.raises(BadRequest) as caught:
        compare(receipt(), other)
    assert str(caught.value) == (
        "A was measured at 16, 64 tokens and B at 32, 128: there is nothing to compare; measure both at the same "
        "lengths"
    )


def test_a_pair_that_nobody_measured_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        BadArtifact, match=r"^the receipt has no variant 'x': it has teacher-onnx-fp32, student-onnx-int8$"
    ):
        compare(receipt(), another_day(ms=2.0), pairs=[(INT8, "x")])


def test_a_receipt_of_another_schema_is_refused() -> None:
    with pytest.raises(BadArtifact) as caught:
        compare(receipt(), another_day(ms=2.0, schema=1))
    assert str(caught.value) == ("B is a receipt of schema 1, and this version compares 2: run its benchmark again")


def test_only_the_lengths_of_both_are_compared() -> None:
    other = another_day(ms=2.2)
    load = msgspec.structs.replace(other.how.load, lengths=(64, 128))
    other = msgspec.structs.replace(other, how=msgspec.structs.replace(other.how, load=load))
    figures = {change.figure for each in compare(receipt(), other).variants for change in each.changes}
    assert "p95_ms" in figures
    assert "p95_ms_short" not in figures


def test_a_server_s_rate_is_compared_where_both_have_one() -> None:
    a, b = (measured(INT8, server=server((rps, 9.0), best_rps=rps)) for rps in (100.0, 150.0))
    found = {change.figure: change for change in changes_of(a, b, lengths=(64,), same_session=False)}
    assert found["server_rps"].ratio == 1.5
    without = changes_of(a, measured(INT8), lengths=(64,), same_session=False)
    assert "server_rps" not in {change.figure for change in without}


def test_quality_by_two_intervals_is_no_narrower_than_either() -> None:
    a = figures_of(receipt(), {INT8: (0.878, 0.868, 0.888)})
    b = figures_of(receipt(), {INT8: (0.873, 0.863, 0.883)})
    found = quality_changes(a, b, metric="accuracy", pairs=[(INT8, INT8), (TEACHER, TEACHER)])
    assert list(found) == [INT8], "the teacher has no such figure"
    change = found[INT8]
    assert change.estimate == pytest.approx(-0.005)
    assert (change.low, change.high) == (pytest.approx(-0.01914, abs=1e-5), pytest.approx(0.00914, abs=1e-5))
    assert not change.paired


def test_the_notes_say_when_quality_is_not_compared_or_not_item_by_item() -> None:
    unpaired = {INT8: QualityChange("accuracy", 0.0, -0.01, 0.01, paired=False)}
    assert compare(receipt(), another_day(ms=2.2)).notes[-1] == (
        "Quality is not compared: no figures of it lie beside both receipts."
    )
    assert compare(receipt(), another_day(ms=2.2), quality=unpaired).notes[-1] == (
        "Quality is compared by either side's interval, not item by item; paired, its interval would be narrower."
    )


def test_the_table_shows_people_every_figure() -> None:
    console = Console(width=140)
    with console.capture() as captured:
        console.print(build_table(compare(receipt(), another_day(ms=2.2))))
    text = captured.get()
    assert text.count("p95_ms_real") == 2
    (line,) = [line for line in text.splitlines() if INT8 in line]
    assert "p50_ms" in line
    assert " to 0." in line


def test_a_comparison_survives_json() -> None:
    found = compare(receipt(), another_day(ms=2.2))
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


def test_where_no_file_is_in_both_it_is_said_that_nothing_tells_the_days_apart() -> None:
    told = "No file was measured in both: nothing says how much of a difference in times the days have made."
    other = receipt([measured(SMALL, ms=4.0, digest="other", seed=9)])
    assert told in compare(receipt([measured(SMALL)]), other).notes
    assert told not in compare(receipt(), another_day(ms=2.2)).notes


def test_one_file_run_in_two_ways_is_no_measure_of_the_days() -> None:
    other = receipt([measured(SMALL, ms=4.0, kind="openvino", seed=9)])
    (found,) = compare(receipt([measured(SMALL)]), other).variants
    assert not found.same_file
    assert found.times == "faster"
