"""Around the register stage: a version of the chosen bundle, and the aliases that it is given.

A run that is killed anywhere and goes on ends as one that was not: the step's key finds the version that it made, the
ledger the moves; each is made once. The registry is read anew before each move, since others may be at it.
"""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pipeline import challenge, evidence, kept_ledger, promotion
from pipeline.artifact import Artifact
from pipeline.card import CARD, card_head
from pipeline.challenge import Decision, Standing, Wanted
from pipeline.champion import Champion, Named
from pipeline.errors import BadArtifact
from pipeline.gates import Verdict
from pipeline.model_state import speaks_of
from pipeline.moves import MAX_WHY, Move, NamedAlready, Overtaken, signed
from pipeline.naming import BENCHMARK
from pipeline.settling import settled
from pipeline.tracking import versions
from pipeline.tracking.client import default_uri, talking_to
from pipeline.tracking.registering import Offer, register
from serving.bundle import read_bundle
from serving.registry import DIGEST_TAG

if TYPE_CHECKING:
    from pipeline.graph import Inputs, Tools
    from pipeline.stages.register import RegisterConfig

NO_ENTRY: Final = "it has the alias, and the ledger does not say why"


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version in the registry and the aliases that it had when the stage ended. `new` where this very step made it,
    in this try or in one that was killed; not where the champion had these bytes already."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str | None
    model_uri: str
    digest: str
    tracking_uri: str
    new: bool


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a register stage came to: its facts. `promoted` says that the version became the champion, `why` why it did
    or did not."""

    verdict: Verdict
    registered: Given | None
    promoted: bool
    why: str


def read_outcome(register: Artifact) -> Outcome:
    """The facts of a register artifact.

    Raises:
        BadArtifact: an older Retort made it.
    """
    try:
        return msgspec.convert(register.manifest.facts, Outcome)
    except msgspec.ValidationError as error:
        raise BadArtifact(
            f"artifact {register.manifest.key}: its facts are of another version of Retort ({error}); `retort run` "
            "makes it again"
        ) from error


def shortened(why: str) -> str:
    """As much of a reason as the ledger keeps: all of it is in the verdict, a receipt that the entry names."""
    return why if len(why) <= MAX_WHY else f"{why[: MAX_WHY - 3]}..."


def register_chosen(
    config: "RegisterConfig",
    inputs: "Inputs",
    verdict: Verdict,
    *,
    label: str,
    out: Path,
    tools: "Tools",
) -> Outcome:
    """Register the bundle of step `label`, which the verdict chose, unless it is the champion already; give it the
    aliases that it has earned.

    Raises:
        Transient: the registry cannot be reached, or the champion is another one than was measured.
        BadRequest: the registry refuses the name, or something else registered a model of this name.
    """
    digest = read_bundle(inputs.artifacts[label].path / "bundle").digest
    desk = _Desk(config, inputs, verdict, digest=digest, tools=tools)
    with talking_to(desk.uri) as client:
        before = desk.look(client, repair=True)
        desk.require_unmoved(before)
        found = desk.decide(before)
        if found.already is not None:
            return desk.outcome(client, found, found.already, new=False)
    version = _make(desk, label=label, out=out)
    with talking_to(desk.uri) as client:
        return desk.outcome(client, desk.settle(client), version, new=True)


class _Desk:
    """One stage's dealings with its registry."""

    def __init__(
        self,
        config: "RegisterConfig",
        inputs: "Inputs",
        verdict: Verdict,
        *,
        digest: str,
        tools: "Tools",
    ) -> None:
        self.config, self.inputs, self.verdict, self.digest, self.tools = config, inputs, verdict, digest, tools
        self.uri = config.tracking_uri or default_uri(tools.workspace)

    def look(self, client: Any, *, repair: bool = False) -> Standing:
        """What the registry says now; `repair` first finishes a move that was interrupted. What the ledger says of a
        version that had this one's number and was deleted is no word about this one."""
        name = self.config.name
        mine = versions.version_by_key(client, name, self.tools.key)
        if repair and mine is not None:
            settled(client, name).require_written(challenge.CHALLENGER, self.config.alias)
        aliases = versions.aliases_of(client, name) or {}
        number = None if mine is None else str(mine.number)
        given = dict.fromkeys((alias for alias, to in aliases.items() if to == number), NO_ENTRY)
        if mine is not None:
            moves = (entry for _, entry in kept_ledger.read_chain(client, name).valid())
            given |= {each.alias: each.why for each in moves if each.to == number and speaks_of(each, mine)}
        champion = aliases.get(self.config.alias)
        named = None if champion is None else Named(champion, _digest(client, name, champion))
        return Standing(named, number, given)

    def require_unmoved(self, standing: Standing) -> None:
        """See challenge.require_unmoved."""
        source = Champion(self.config.name, self.config.alias).source
        measured = self.inputs.artifacts[BENCHMARK].manifest.facts["champion"]
        challenge.require_unmoved(measured, standing, source=source, alias=self.config.alias)

    def decide(self, standing: Standing) -> Decision:
        """See challenge.decide."""
        return challenge.decide(self.verdict, standing, digest=self.digest, alias=self.config.alias)

    def settle(self, client: Any) -> Decision:
        """Make the moves that are wanted, one after the other, until none is."""
        told = ""  # shorter than what the ledger keeps
        for _ in range(kept_ledger.TRIES):
            standing = self.look(client)
            decision = self.decide(standing)
            if not decision.wanted:
                if not told:  # a version that was deleted, and made again byte for byte, has lost its aliases
                    self.look(client, repair=True)
                return replace(decision, why=told) if decision.promoted and told else decision
            told, wanted = decision.why, decision.wanted[0]
            if wanted.alias == self.config.alias:
                self.require_unmoved(standing)
            self._move(client, wanted, standing)
        raise kept_ledger.restless(self.config.name)

    def _move(self, client: Any, wanted: Wanted, standing: Standing) -> None:
        """Make a move, unless somebody else was at this alias meanwhile; another look is to be taken in any case."""
        assert standing.mine is not None
        who, why = signed(self.tools.who, step=self.tools.key), shortened(wanted.why)
        with suppress(Overtaken, NamedAlready):  # by a person who gave it this very version
            promotion.move(client, self.config.name, Move(wanted.alias, standing.mine, why, who))

    def outcome(self, client: Any, decision: Decision, version: str, *, new: bool) -> Outcome:
        """The facts of the stage."""
        name = self.config.name
        aliases = versions.aliases_of(client, name) or {}
        given = Given(
            name=name,
            version=version,
            aliases=tuple(sorted(alias for alias, to in aliases.items() if to == version)),
            run_id=client.get_model_version(name, version).run_id or None,
            model_uri=f"models:/{name}/{version}",
            digest=self.digest,
            tracking_uri=self.uri,
            new=new,
        )
        return Outcome(self.verdict, given, decision.promoted, decision.why)


def _make(desk: _Desk, *, label: str, out: Path) -> str:
    """The version's folder, its run, and the version. Where a try before this one made it, `register` finds it, and
    takes back what was made twice."""
    from pipeline.tracking.runs import parent_run_id
    from pipeline.version_facts import facts_of
    from pipeline.version_folder import build_version

    config, artifacts, tools = desk.config, desk.inputs.artifacts, desk.tools
    with tools.reporter.bar("register", total=None, unit="version") as bar:
        bundle = evidence.bundle_with_receipts(artifacts, label, out)
        facts = facts_of(
            artifacts,
            desk.verdict,
            bundle,
            name=config.name,
            digest=desk.digest,
            alias=config.alias,
            licence=config.license,
            sources=desk.inputs.sources,
            cache=tools.cache,
        )
        manifests = evidence.manifests_of(artifacts)
        folder = build_version(out, bundle=bundle, manifests=manifests, facts=facts, key=config.sign_key)
        shutil.rmtree(bundle)  # it is in the version's folder
        offer = Offer(
            name=config.name,
            key=tools.key,
            folder=folder,
            tags=evidence.tags_of(artifacts, desk.verdict, folder / "bundle"),
            experiment=config.name,
            run_id=None if tools.outbox is None else parent_run_id(tools.outbox),
            description=card_head((folder / CARD).read_text(encoding="utf-8")),
        )
        made = register(offer, uri=desk.uri, workspace=tools.workspace)
        bar.advance()
    return made.version


def _digest(client: Any, name: str, version: str) -> str:
    return str(client.get_model_version(name, version).tags.get(DIGEST_TAG, ""))
