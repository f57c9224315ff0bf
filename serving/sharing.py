"""A version that several lanes serve is loaded once; what it does in each is counted apart."""

import itertools
import threading
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from serving.lanes import SHADOW, named_of
from serving.models import Live, Models
from serving.registry import Named


class Sharing:
    """Calls `load` with a lane and a source for what no lane has in memory; `loaded` says what they have."""

    def __init__(
        self, models: Models, *, loaded: Callable[[], Sequence[Live]], load: Callable[[str, str], Live]
    ) -> None:
        self._models, self._loaded, self._load = models, loaded, load
        self._guard = threading.Lock()
        self._loading: WeakValueDictionary[tuple[str, Named], threading.Lock] = WeakValueDictionary()
        self._new: WeakValueDictionary[int, Live] = WeakValueDictionary()  # until their lanes have them
        self._numbers = itertools.count()

    def fetch(self, lane: str, model: str, named: Named) -> Live:
        """The version, for a lane; where another one is loading it, that is waited for. Raises as `load` does."""
        with self._guard:
            lock = self._loading.setdefault((model, named), threading.Lock())
        with lock:
            for live in (*self._loaded(), *self._new.values()):
                if (live.name, named_of(live)) == (model, named) and self._runs_as(live, lane):
                    return live.in_another_lane()
            found = self._load(lane, f"models:/{model}/{named.version}")
            self._new[next(self._numbers)] = found
            return found

    def _runs_as(self, live: Live, lane: str) -> bool:
        """Whether a lane would run it as it is. All are run for the executors there are but a shadow's one session: it
        serves nobody else."""
        return lane == SHADOW or live.setting.executors == self._models.current.setting.executors
