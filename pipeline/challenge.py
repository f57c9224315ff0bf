"""What becomes of a variant that passed its own rules: which aliases its version is given, and why. Pure: what the gate
said and what the registry says go in, moves come out.

    nothing is in service yet               challenger and champion
    it passes the rules against it          challenger and champion
    it does not, or that is not known       challenger
    no rule compares with the champion      challenger; people decide (`retort promote`)
    it is the champion, byte for byte       no version: there is one already
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.champion import NOBODY, Named
from pipeline.errors import Transient
from pipeline.gates import Verdict

CHALLENGER: Final = "challenger"  # the last version that passed its own rules


@dataclass(frozen=True)
class Standing:
    """What the registry says before this step does anything: who is the champion, which version an earlier try of this
    very step made, and why the ledger says that it was given each alias it ever had."""

    champion: Named | None = None
    mine: str | None = None
    given: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """An alias that the version is still to be given, and the reason that the ledger keeps."""

    alias: str
    why: str


@dataclass(frozen=True)
class Decision:
    """`why` says what came of the promotion. `already` is the version that makes another one needless."""

    promoted: bool
    why: str
    wanted: tuple[Wanted, ...] = ()
    already: str | None = None


def decide(verdict: Verdict, standing: Standing, *, digest: str, alias: str) -> Decision:
    """What is to be done for the chosen bundle of `digest`; `alias` is what the champion is called.

    An alias that the ledger says the version was given is not given again, whoever moved it since: a run that was
    killed and goes on must not take back what people did meanwhile.
    """
    champion = standing.champion
    if champion is not None and champion.digest == digest and standing.mine is None:
        why = f"these very bytes are version {champion.version} already, which is the {alias}"
        return Decision(False, why, already=champion.version)
    if alias in standing.given:
        return Decision(True, standing.given[alias])
    promoted, why = _promotion(verdict, champion, alias=alias)
    asked = [Wanted(CHALLENGER, verdict.reason)]
    if promoted:
        asked.append(Wanted(alias, verdict.reason if champion else f"{why}; {verdict.reason}"))
    return Decision(promoted, why, tuple(each for each in asked if each.alias not in standing.given))


def require_unmoved(measured: str | None, standing: Standing, *, source: str, alias: str) -> None:
    """Raise Transient where the champion is another one than was `measured` (digest, NOBODY, or None: no rule asks):
    its challengers have not been compared with this one. What this very step made champion is no other one.
    """
    now = NOBODY if standing.champion is None else standing.champion.digest
    if measured in (None, now) or alias in standing.given:
        return
    raise Transient(
        f"{source} has become another champion since its challengers were measured beside it (digest "
        f"{str(measured)[:12]}, now {now[:12]}): run again, they are measured beside the new one"
    )


def _promotion(verdict: Verdict, champion: Named | None, *, alias: str) -> tuple[bool, str]:
    if champion is None:
        return True, f"there was no {alias} yet"
    if verdict.promotion is None:
        return False, f"no rule of the gate compares with the champion, which is version {champion.version}"
    said = {
        "PASS": "it passes every rule against the champion",
        "FAIL": "it does not pass against the champion",
        "INCONCLUSIVE": "whether it passes against the champion is not known",
    }[verdict.promotion]
    return verdict.promotion == "PASS", f"{said}, version {champion.version}: {verdict.promotion_reason}"
