#!/usr/bin/env bash
# Writes the lock files from the .in files with pip-tools (Python 3.11). Run it from the repository root after editing a .in file.
set -euo pipefail
cd "$(dirname "$0")"
python3.11 -m venv "${LOCK_VENV:=$(mktemp -d)/venv}"
"$LOCK_VENV/bin/pip" install --quiet pip-tools
compile() { "$LOCK_VENV/bin/pip-compile" --quiet --strip-extras --no-header --allow-unsafe --no-emit-options --no-annotate "$@"; }
compile --generate-hashes --output-file serving.txt serving.in
for set in pipeline dev; do
  compile --output-file "$set.txt" "$set.in" --constraint <(sed -nE 's/^([A-Za-z0-9._-]+==[^ ;\\]+).*/\1/p' serving.txt)
  # torch comes from torch.txt; what a CUDA build pulls in is torch's own affair.
  sed -i -E '/^nvidia-ml-py==/!{/^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/d}' "$set.txt"
done
compile --output-file mlserver.txt mlserver.in
# It runs beside what ships, with the same onnxruntime and an older transformers.
compile --output-file optimum.txt optimum.in --constraint <(grep -oE '^(onnxruntime|numpy)==[^ \\]+' serving.txt)
sed -i -E '/^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/d' optimum.txt
