"""What users of `optimum.onnxruntime` get of our bundles. It needs an older transformers than ours, so it is run by the
Python of its own environment: `optimum_answers.py JOBS.json ANSWERS.json`; tests/test_optimum.py starts it."""

import json
import sys
from pathlib import Path
from typing import Any

import optimum.onnxruntime as optimum
import torch
from transformers import AutoTokenizer

CLASSES = {
    "classification": optimum.ORTModelForSequenceClassification,
    "multi-label": optimum.ORTModelForSequenceClassification,
    "regression": optimum.ORTModelForSequenceClassification,
    "token-classification": optimum.ORTModelForTokenClassification,
    "embedding": optimum.ORTModelForCustomTasks,  # pooling is inside the graph
}


def answers(job: dict[str, Any]) -> dict[str, Any]:
    """The outputs of the job's texts in one padded batch, padding cut off, and the labels' names."""
    model = CLASSES[job["task"]].from_pretrained(job["bundle"])
    tokenizer = AutoTokenizer.from_pretrained(job["bundle"])
    batch = tokenizer(job["texts"], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**batch)
    found = outputs["sentence_embedding"] if job["task"] == "embedding" else outputs.logits
    ends = batch["attention_mask"].sum(dim=1).tolist()
    rows = [row[:end] if row.ndim == 2 else row for row, end in zip(found, ends, strict=True)]
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    return {"rows": [row.tolist() for row in rows], "labels": labels}


if __name__ == "__main__":
    jobs, target = map(Path, sys.argv[1:])
    target.write_text(json.dumps([answers(job) for job in json.loads(jobs.read_text())]))
