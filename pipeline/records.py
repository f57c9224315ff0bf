"""The base of every configuration record: frozen, and unknown keys are refused."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A frozen record parsed at the edge; inside the program its values are trusted."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
