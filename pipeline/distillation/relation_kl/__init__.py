"""MiniLMv2 relation loss: one function, several implementations (`reference` is the plain fp64 loop they must
equal)."""

from pipeline.distillation.relation_kl.cpu import relation_kl

__all__ = ["relation_kl"]
