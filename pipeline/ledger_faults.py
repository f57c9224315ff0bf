"""What is wrong with a model's ledger and with its aliases, in words, with the way out."""

from collections.abc import Iterator, Mapping

from pipeline.model_state import State


def ledger_faults(state: State) -> Iterator[str]:
    """What was altered, removed or cut off."""
    yield from (fault.text for fault in state.chain.faults)
    for where, head in state.missing.items():
        number, _, end = head.partition(":")
        yield f"the ledger was cut off: {where} says it reached to entry {number} ({end[:12]}), which is not there"


def alias_faults(state: State, foreign: Mapping[str, str | None]) -> Iterator[str]:
    """Aliases that are not what the ledger says: `foreign` ones, and those whose version is gone or whose
    move is unfinished."""
    there = state.promised
    for alias, to in state.chain.aliases().items():
        number = next(number for number, _ in reversed(state.chain.valid(alias)))
        command = f"retort promote {state.name} --to {alias} --version"
        if alias in foreign:
            yield _foreign_fault(state, alias, foreign[alias], to=to, number=number, command=command)
        elif to not in state.versions:
            yield (
                f"version {to}, which @{alias} names by entry {number}, was deleted from the registry; "
                f"`{command} V --why ...` names another"
            )
        elif (now := state.named.get(alias)) != to and alias not in there:
            yield (
                f"version {to}, which @{alias} names by entry {number}, is another one now: it was deleted, and its "
                f"number given again, or its tags were changed; `{command} V --why ...` names one"
            )
        elif now != to:
            yield (
                f"@{alias} names {'nothing' if now is None else f'version {now}'}, and by entry {number} it is {to}: "
                f"that move is unfinished; `retort promote {state.name} --resume` finishes it"
            )


def _foreign_fault(state: State, alias: str, now: str | None, *, to: str, number: int, command: str) -> str:
    names = "nothing" if now is None else f"version {now}"
    did = "removed" if now is None else "moved"
    what = f"@{alias} names {names}, and by entry {number} it is {to}: something {did} it past the ledger"
    if state.missing:
        what += ", or by an entry that is not there any more"
    ways = [] if now is None else [f"`{command} {now} --why ...` puts that on record"]
    if alias in state.promised:
        ways.append(f"`{command} {to} --why ...` {'puts' if now is None else 'takes'} it back")
    return f"{what}; {', '.join(ways)}"
