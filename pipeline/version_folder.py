"""A version's folder: the bundle's own bytes, and beside them all that a registry, a reader and a verifier need.

    MLmodel  requirements.txt  conda.yaml  python_env.yaml  input_example.json  serving_input_example.json  code/
    bundle/  manifests/<label>.json  README.md  sbom.cdx.json  files.sha256  model.sig

Of the same bundle, manifests and facts it always holds the same bytes, model.sig excepted.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.card import CARD, render_card
from pipeline.locks import locked_versions
from pipeline.sbom import SBOM, bill_of_materials
from pipeline.signing import check_key, sign
from pipeline.tracking.flavour import DATA, write_flavour
from pipeline.version_records import VersionFacts
from serving.bundle import MANIFEST, Bundle, read_bundle
from serving.signatures import FILES, files_listing

VERSION: Final = "version"
MANIFESTS: Final = "manifests"


def build_version(
    out: Path, *, bundle: Path, manifests: Mapping[str, Path], facts: VersionFacts, key: Path | None
) -> Path:
    """Put the folder together in `out`, in place of what a killed try left there; signed where there is a private
    `key`. `manifests` are the steps' own files by label.

    Raises:
        BadRequest: the key cannot sign, or the checkout has no locked requirements.
        BadArtifact: the bundle is altered, or holds what a version cannot (a link, an odd name).
    """
    if key is not None:
        check_key(key)
    folder = out / VERSION
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(bundle, folder / DATA, symlinks=True)
    copied = read_bundle(folder / DATA)
    (folder / MANIFESTS).mkdir()
    for label, path in sorted(manifests.items()):
        shutil.copyfile(path, folder / MANIFESTS / f"{label}.json")
    made = {"made_at": facts.made_at, "python": facts.first.python}
    write_flavour(folder, copied, locked=locked_versions(), **made)
    (folder / CARD).write_text(render_card(facts), encoding="utf-8")
    (folder / SBOM).write_text(bill_of_materials(facts, _core(copied)), encoding="utf-8")
    (folder / FILES).write_text(files_listing(folder), encoding="utf-8")
    if key is not None:
        sign(folder, key)
    return folder


def _core(bundle: Bundle) -> dict[str, str]:
    """The sealed files and their digests, that of the list itself left out: it is the bundle's digest."""
    lines = (bundle.path / MANIFEST).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
