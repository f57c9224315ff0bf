"""EXTENSION POINT: what becomes of a text of more tokens than its model reads, as serving.yaml says: `long_texts`.

It is a part of what was measured, so a server has no setting for it. `told` is how a card says it.
"""

from typing import Annotated

import msgspec

_Count = Annotated[int, msgspec.Meta(ge=1)]


class Truncate(msgspec.Struct, frozen=True, tag_field="kind", tag="truncate", forbid_unknown_fields=True):
    """It is cut at its end; of a pair the longer text first."""

    def told(self, *, reads: int) -> str:
        return f"texts are cut at {reads:,} tokens"


class Refuse(msgspec.Struct, frozen=True, tag_field="kind", tag="refuse", forbid_unknown_fields=True):
    """It is a bad request."""

    def told(self, *, reads: int) -> str:
        return f"texts of more than {reads:,} tokens are refused"


class Windows(msgspec.Struct, frozen=True, tag_field="kind", tag="windows", forbid_unknown_fields=True):
    """It is computed as windows that each fill the model, of which neighbours share `stride` tokens, and answered from
    all of them (serving.windows). One of more than `max_windows` is a bad request: it would take the server."""

    stride: Annotated[int, msgspec.Meta(ge=0)] = 64
    max_windows: _Count = 32

    def told(self, *, reads: int) -> str:
        shared = f"of which neighbours share {self.stride}"
        return f"texts of more than {reads:,} tokens are read in up to {self.max_windows} windows {shared}"


LongTexts = Truncate | Refuse | Windows
