"""What a finished run tells others of its measuring session: a page, a comment for a review, test results for CI."""

from pathlib import Path
from typing import Final

import msgspec

from pipeline.artifact import Artifact

PAGE: Final = "report.html"


def write_told(name: str, benchmark: Artifact, register: Artifact | None, folder: Path) -> tuple[Path, ...]:
    """Write report.html, outcome.md and, where the gate was asked, junit.xml into `folder`; the paths written.

    Made when a run is shown and not by its stages: how a page looks decides no artifact's key.

    Raises:
        BadArtifact: the benchmark's receipt is of another version, or was altered.
    """
    from benchmarks.outcomes import write_outcomes
    from benchmarks.page import write_page
    from benchmarks.receipt import read_receipt
    from benchmarks.shown import Outcomes
    from pipeline.gates import Verdict

    facts = benchmark.manifest.facts
    told = Outcomes(
        title=name,
        receipt=read_receipt(benchmark.path),
        figures=facts["figures"],
        metric=facts["metric"],
        verdict=None if register is None else msgspec.convert(register.manifest.facts["verdict"], Verdict),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_page(told, folder / PAGE)
    return (folder / PAGE, *write_outcomes(told, folder))
