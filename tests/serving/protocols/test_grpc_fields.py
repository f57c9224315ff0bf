"""Counting the fields of a message before it is made."""

import random
import time
from typing import Any

import pytest
from asking_grpc import asking, text

from serving.errors import BadRequest
from serving.protocols.grpc_fields import require_few_fields
from serving.protocols.grpc_messages import message

TOLD = r"^the message has more than the 100 fields that are read; split the request$"
ASKED = asking(text("good", "bad"), outputs=[{"name": "label"}], id="1")
IDS = {"name": "input_ids", "datatype": "INT64", "shape": [1, 500], "contents": {"int64_contents": [1] * 500}}


@pytest.mark.parametrize("asked", [ASKED, asking(IDS), message("ModelReadyRequest")(name="m", version="7")])
def test_what_clients_send_has_few(asked: Any) -> None:
    require_few_fields(asked.SerializeToString(), most=20)


@pytest.mark.parametrize(
    "asked",
    [
        asking(*[text("a")] * 40),
        asking(outputs=[{}] * 101),
        asking(text("a"), raw_input_contents=[b""] * 101),
        asking(parameters={str(index): {"bool_param": True} for index in range(101)}),
        asking(text("a", parameters={str(index): {"bool_param": True} for index in range(101)})),
        asking(text(*["a"] * 101)),
    ],
)
def test_many_are_refused_wherever_they_are(asked: Any) -> None:
    with pytest.raises(BadRequest, match=TOLD):
        require_few_fields(asked.SerializeToString(), most=100)


def test_a_group_hides_none() -> None:
    with pytest.raises(BadRequest, match=TOLD):
        require_few_fields(bytes([15 << 3 | 3, 15 << 3 | 4]) + bytes([6 << 3 | 2, 0]) * 101, most=100)


def test_millions_are_noticed_at_once() -> None:
    body = bytes([6 << 3 | 2, 0]) * 2**21
    began_s = time.process_time()
    with pytest.raises(BadRequest, match=TOLD):
        require_few_fields(body, most=100)
    assert time.process_time() - began_s < 0.05


def test_a_broken_message_is_left_to_who_reads_it() -> None:
    chance, body = random.Random(7), ASKED.SerializeToString()
    for _ in range(2000):
        broken = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        require_few_fields(bytes(broken[: chance.randrange(len(broken))]), most=100)
