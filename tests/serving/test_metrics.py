import math

from serving.metrics import OUTCOMES, Metrics


def test_accepted_is_the_sum_of_its_outcomes_and_rejections_are_apart() -> None:
    metrics = Metrics()
    for times, outcome in enumerate((*OUTCOMES, "rejected"), start=1):
        for _ in range(times):
            metrics.count(outcome)
    value = metrics.registry.get_sample_value
    by_outcome = [value("retort_requests_total", {"outcome": outcome}) for outcome in OUTCOMES]
    assert by_outcome == [1, 2, 3, 4, 5]
    assert value("retort_requests_accepted_total") == 15
    assert value("retort_requests_rejected_total") == 6


def test_every_outcome_and_phase_is_shown_before_it_happens() -> None:
    text = Metrics().text().decode()
    assert all(f'retort_requests_total{{outcome="{outcome}"}} 0.0' in text for outcome in OUTCOMES)
    assert 'retort_phase_seconds_count{phase="tokenize"} 0.0' in text


def test_phases_fall_into_buckets_from_a_tenth_of_a_millisecond() -> None:
    metrics = Metrics()
    metrics.observe(queue_ms=0.05, tokenize_ms=0.2, infer_ms=99.0, other_ms=0.3)

    def within(phase: str, le: str) -> float | None:
        return metrics.registry.get_sample_value("retort_phase_seconds_bucket", {"phase": phase, "le": le})

    assert within("queue", "0.0001") == 1
    assert (within("tokenize", "0.0001"), within("tokenize", "0.00025")) == (0, 1)
    assert (within("infer", "0.05"), within("infer", "0.1")) == (0, 1)
    assert (within("other", "0.00025"), within("other", "0.0005")) == (0, 1)


def test_the_queue_is_read_when_asked() -> None:
    metrics = Metrics()
    queue = ["a"]
    metrics.watch_queue(lambda: len(queue), limit=7, saturation=lambda: len(queue) / 4)
    queue.append("b")
    assert metrics.registry.get_sample_value("retort_saturation") == 0.5
    assert metrics.registry.get_sample_value("retort_queue_length") == 2
    assert metrics.registry.get_sample_value("retort_queue_limit") == 7


def test_a_swap_replaces_the_model_that_is_shown() -> None:
    metrics = Metrics()
    metrics.serving(name="m", version="1", digest="aa")
    metrics.serving(name="m", version="2", digest="bb")
    value = metrics.registry.get_sample_value
    assert value("retort_model_info", {"name": "m", "version": "2", "digest": "bb"}) == 1
    assert value("retort_model_info", {"name": "m", "version": "1", "digest": "aa"}) is None


def test_the_registry_is_unknown_until_it_was_asked() -> None:
    metrics = Metrics()
    before = metrics.registry.get_sample_value("retort_registry_up")
    metrics.registry_is_up(False)
    assert before is not None
    assert math.isnan(before)
    assert metrics.registry.get_sample_value("retort_registry_up") == 0


def test_the_text_is_made_at_most_every_half_second() -> None:
    now_s = [0.0]
    metrics = Metrics(clock=lambda: now_s[0])
    first = metrics.text()
    metrics.count("ok")
    now_s[0] = 0.4
    assert metrics.text() is first
    now_s[0] = 0.5
    assert b"retort_requests_accepted_total 1.0" in metrics.text()


def test_two_servers_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.count("ok")
    assert second.registry.get_sample_value("retort_requests_accepted_total") == 0
