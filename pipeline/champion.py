"""The champion: the bundle that `models:/NAME@ALIAS` of a run's registry names now, as a source of the benchmark.

It is measured again beside its challengers, in their session, because a ratio to a figure of another day or machine is
not fair. Where nothing was registered under the alias there is no champion yet, which is no error.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.data.labels import shown
from pipeline.errors import BadArtifact, BadRequest
from pipeline.tracking.client import default_uri, talking_to
from serving.bundle import ServingSpec, TaskKind, read_bundle
from serving.reaching import is_made
from serving.registry import DIGEST_TAG, Resolved, resolve

NOBODY: Final = "none"  # the identity where there is no champion yet


@dataclass(frozen=True)
class Named:
    """What the alias names: a version and the digest that its bundle was registered with."""

    version: str
    digest: str


@dataclass
class Champion:
    """A source (graph.Source). The registry is asked once: what is in a step's key is what the step measures, also when
    the alias is moved meanwhile.

    `tracking_uri` None is the workspace's own registry, `cache` being the workspace's.
    """

    name: str
    alias: str = "champion"
    tracking_uri: str | None = None
    _asked: list[Named | None] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def source(self) -> str:
        """How it is called in a registry."""
        return f"models:/{self.name}@{self.alias}"

    def identity(self, cache: Path) -> str:
        """The bundle's digest, or NOBODY; nothing is fetched.

        Raises:
            Transient: the registry cannot be reached.
            BadArtifact: the version was not registered by Retort, so that nothing says what its files must be.
        """
        named = self._named(cache)
        return NOBODY if named is None else named.digest

    def resolve(self, cache: Path) -> Resolved | None:
        """The bundle's folder, fetched and verified, or None where there is no champion yet."""
        named = self._named(cache)
        if named is None:
            return None
        uri = self._uri(cache)
        with talking_to(uri):
            return resolve(f"models:/{self.name}/{named.version}", tracking_uri=uri, cache=cache / "served")

    def rival(
        self, cache: Path, *, task: TaskKind, texts_per_item: int, labels: tuple[str, ...], length: int
    ) -> Resolved | None:
        """`resolve`, and `require_comparable` where there is a champion."""
        found = self.resolve(cache)
        if found is not None:
            require_comparable(
                found, self.source, task=task, texts_per_item=texts_per_item, labels=labels, length=length
            )
        return found

    def _named(self, cache: Path) -> Named | None:
        if not self._asked:
            self._asked.append(self._ask(cache))
        return self._asked[0]

    def _ask(self, cache: Path) -> Named | None:
        uri = self._uri(cache)
        if not is_made(uri):
            return None  # the first run makes it; asked now, MLflow would, and take seconds for it
        with talking_to(uri) as client:
            version = _version(client, self.name, self.alias)
            if version is None:
                return None
            digest = client.get_model_version(self.name, version).tags.get(DIGEST_TAG)
        if not digest:
            raise BadArtifact(
                f"{self.source} is version {version}, which has no tag {DIGEST_TAG}: Retort did not register it, and "
                "it cannot be measured; give the alias to a version that `retort run` registered, or take the rules "
                "against champion out of the gate"
            )
        return Named(version, str(digest))

    def _uri(self, cache: Path) -> str:
        return self.tracking_uri or default_uri(cache.parent)


def require_comparable(
    champion: Resolved, source: str, *, task: TaskKind, texts_per_item: int, labels: tuple[str, ...], length: int
) -> ServingSpec:
    """What the champion's bundle says of itself, if it can be measured beside this run's variants.

    Raises:
        BadRequest: it does another task, reads items of another form, answers in other `labels` than the data's, or
            cuts texts before the `length` in tokens at which latency is measured.
    """
    spec = read_bundle(champion.path).spec
    differs = {
        f"does {spec.task}, this run {task}": spec.task != task,
        f"reads {spec.texts_per_item} text(s) an item, this run {texts_per_item}": spec.texts_per_item
        != texts_per_item,
        f"answers in the labels {shown(spec.labels)}, this run in {shown(labels)}": spec.labels != labels,
        f"reads {spec.max_length} tokens, latency is measured at {length}": spec.max_length < length,
    }
    for how, found in differs.items():
        if found:
            raise BadRequest(
                f"the champion {source} (version {champion.version}) {how}, so the two cannot be compared: register "
                "under another name, or take the rules against champion out of the gate"
            )
    return spec


def _version(client: Any, name: str, alias: str) -> str | None:
    """The version under the alias; None where there is no such model or alias. A search, since the registry's answer
    that it does not know a name could not be told from other refusals."""
    if not any(model.name == name for model in client.search_registered_models(filter_string=f"name='{name}'")):
        return None
    aliases = {str(each): str(version) for each, version in client.get_registered_model(name).aliases.items()}
    return aliases.get(alias)
