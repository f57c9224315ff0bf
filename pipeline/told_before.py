"""What the outbox of a run that goes on was told before: by a process that ended, however it did."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.artifact import Artifact
from pipeline.events import PARENT, Closed, Files, Metrics, Opened, Tags, event_of
from pipeline.outbox_reading import lines_after

STEPS, ERROR = "retort.steps", "retort.error"
FINISHED = "FINISHED"
Reached = dict[tuple[str, str, str], int]
"""how far metrics have come: the last step by label, key and name"""


@dataclass
class ToldBefore:
    """What was opened last by label, and how it ended where it did; how far the metrics of each step had come (what is
    trained again from a checkpoint gives the same numbers, which are not told twice); how many steps the run had at its
    end, whether it told of an error there, when anything was told last, and of which measuring sessions it has a page
    about all that was made by then."""

    opened: dict[str, Opened] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    reached: Reached = field(default_factory=dict)
    steps: str = ""
    failed: bool = False
    last_at: int = 0
    pages: set[str] = field(default_factory=set)

    @property
    def left(self) -> list[str]:
        """The steps that were not closed."""
        return [label for label in self.opened if label not in self.ended and label != PARENT]

    @property
    def cut(self) -> list[str]:
        """The steps that did not come to their end."""
        return [label for label in self.opened if self.ended.get(label) != FINISHED and label != PARENT]

    def lacks(self, label: str, artifact: Artifact) -> bool:
        """Whether the artifact was made by the step that was begun, and nobody said so."""
        opened = self.opened.get(label)
        if opened is None or self.ended.get(label) == FINISHED or opened.key != artifact.manifest.key:
            return False
        return _sealed_at(artifact) >= opened.at - opened.at % 1000

    def sealed_at(self, label: str, artifact: Artifact) -> int:
        """When a step that was begun before was done, in milliseconds since 1970."""
        return max(_sealed_at(artifact), self.opened[label].at)

    def knows(self, label: str, artifact: Artifact) -> bool:
        """Whether the step is one that this run executed."""
        return label in self.opened and self.opened[label].key == artifact.manifest.key


def _sealed_at(artifact: Artifact) -> int:
    """The manifest says whole seconds."""
    return int(datetime.fromisoformat(artifact.manifest.finished_at).timestamp()) * 1000


def told_before(folder: Path) -> ToldBefore:
    """Read what an outbox has."""
    found = ToldBefore()
    for line, _ in lines_after(folder):
        event = event_of(line)
        found.last_at = found.last_at if event is None else max(found.last_at, event.at)
        if isinstance(event, Opened):
            found.opened[event.of] = event
            found.ended.pop(event.of, None)
            if event.of != PARENT:
                found.pages.clear()
        elif isinstance(event, Closed):
            found.ended[event.of] = event.status
        elif isinstance(event, Files) and event.of == PARENT:
            found.pages.add(event.to)
        elif isinstance(event, Tags) and event.of == PARENT:
            found.steps = event.values.get(STEPS, found.steps)
            found.failed = bool(event.values.get(ERROR, found.failed))
        elif isinstance(event, Metrics) and event.of != PARENT:
            _reach(found, event)
    return found


def _reach(found: ToldBefore, event: Metrics) -> None:
    key = found.opened[event.of].key if event.of in found.opened and event.of not in found.ended else ""
    for name in event.values:
        place = (event.of, key, name)
        found.reached[place] = max(event.step, found.reached.get(place, -1))
