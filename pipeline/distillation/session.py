"""A distillation from its config: teacher, vocabulary and students made ready, one pass for all, students saved."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints import Checkpoints
from pipeline.distillation.objectives import NoObjective
from pipeline.distillation.relation_kl import implementation
from pipeline.distillation.train import How, Pupil, Teacher, distill
from pipeline.encoders.masked_lm import load_masked_lm
from pipeline.encoders.students import build_student, parameters_of, save_encoder
from pipeline.encoders.teachers import load_encoder, load_tokenizer
from pipeline.encoders.vocabulary import CorpusVocabulary, count_tokens, prune_embeddings, prune_tokenizer
from pipeline.precision import precision_used
from pipeline.training import Row

if TYPE_CHECKING:
    from pipeline.data.feed import Feed
    from pipeline.graph import Tools
    from pipeline.stages.distill import DistillConfig


@dataclass(frozen=True)
class Ready:
    """Teacher (from `folder`) and tokenizer, both with the vocabulary that the students will have, and the students in
    their initial state."""

    folder: Path
    teacher: Teacher
    tokenizer: Any
    students: Mapping[str, Any]
    teacher_parameters: int
    vocabulary: tuple[int, int]  # tokens: the teacher's, the students'


def make_ready(configs: "Mapping[str, DistillConfig]", folder: Path, source: Any, tools: "Tools") -> Ready:
    """Load the teacher, cut the vocabulary where that is asked for (a pass over the text to count), build the
    students."""
    shared = next(iter(configs.values()))
    tokenizer = load_tokenizer(folder)
    masked = any(config.objective.masking is not None for config in configs.values())
    masked_lm = load_masked_lm(folder) if masked else None
    teacher = Teacher(masked_lm.base_model if masked_lm is not None else load_encoder(folder), masked_lm)
    parameters, words = parameters_of(teacher.encoder), len(tokenizer)
    if isinstance(shared.vocabulary, CorpusVocabulary):
        texts = source.texts(tools.cache, tools.progress)
        counts = count_tokens(texts, tokenizer, max_length=shared.max_length)
        pruned = prune_tokenizer(
            tokenizer, counts, min_count=shared.vocabulary.min_count, max_size=shared.vocabulary.max_size
        )
        prune_embeddings(masked_lm if masked_lm is not None else teacher.encoder, pruned.kept_ids)
        tokenizer = pruned.tokenizer
    students = {
        name: build_student(teacher.encoder, config.student, seed=config.seed) for name, config in configs.items()
    }
    return Ready(folder, teacher, tokenizer, students, parameters, (words, len(tokenizer)))


def feed_of(config: "DistillConfig", ready: Ready, source: Any, tools: "Tools") -> "Feed":
    """The batches of a pass with these shared settings."""
    packed = config.packs(ready.teacher.encoder.config.model_type, device=tools.team.device.type)
    return config.feed(
        source,
        ready.tokenizer,
        cache=tools.cache,
        team=tools.team,
        packed=packed,
        masking=config.objective.masking,
    )


def pupils_of(configs: "Mapping[str, DistillConfig]", ready: Ready) -> dict[str, Pupil]:
    """Those that have something to learn."""
    return {
        name: Pupil(ready.students[name], config.objective, config.optimization, config.tokens, config.seed)
        for name, config in configs.items()
        if not isinstance(config.objective, NoObjective)
    }


def train(configs: "Mapping[str, DistillConfig]", ready: Ready, source: Any, tools: "Tools") -> dict[str, list[Row]]:
    """Distil every student that has an objective, in one pass; the rows of each loss curve."""
    pupils = pupils_of(configs, ready)
    if not pupils:
        return {}
    first = configs[next(iter(pupils))]
    with feed_of(first, ready, source, tools) as feed:
        return distill(
            ready.teacher,
            pupils,
            feed,
            how=How(first.precision, first.compiled),
            checkpoints=Checkpoints(tools.checkpoints),
            reporter=tools.reporter,
            team=tools.team,
        )


def leave(name: str, config: "DistillConfig", ready: Ready, rows: list[Row], out: Path) -> dict[str, Any]:
    """Save a student with its tokenizer and evidence; what its manifest says of it."""
    from pipeline.curves import save_curve
    from pipeline.training_report import write_report

    student = ready.students[name].to("cpu")
    facts: dict[str, Any] = {
        "parameters": parameters_of(student),
        "teacher_parameters": ready.teacher_parameters,
        "vocabulary": ready.vocabulary[1],
        "teacher_vocabulary": ready.vocabulary[0],
        "tokens": rows[-1]["tokens"] if rows else 0,
        "steps": rows[-1]["step"] if rows else 0,
        "final_loss": rows[-1]["loss"] if rows else None,
        "precision": precision_used(config.precision, device_type()),
        "relation_kl": implementation(device_type()),
    }
    if rows:
        facts["tokens_per_s"] = round(statistics.median(row["tokens_per_s"] for row in rows), 1)
        facts["padding_share"] = round(rows[-1]["padding_share"], 4)
        title = "distillation" if name == "student" else f"distillation of {name}"
        save_curve(rows, out, title=title)
        write_report(rows, out, title=title, facts=facts)
    save_encoder(student, ready.tokenizer, out, like=ready.folder)
    return facts


def device_type() -> str:
    """cuda where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """What trains here."""
    import torch

    from benchmarks.machine import read

    return torch.cuda.get_device_name() if torch.cuda.is_available() else read().cpu_model
