"""A version as our register stage makes one: our own flavour (serving/pyfunc.py), its code beside the bundle."""

from pathlib import Path

import mlflow.pyfunc
from classifier import read_peer

if __name__ == "__main__":
    peer = read_peer()
    code = str(Path(peer.checkout) / "serving")
    mlflow.pyfunc.save_model("version", loader_module="serving.pyfunc", data_path=peer.bundle, code_paths=[code])
