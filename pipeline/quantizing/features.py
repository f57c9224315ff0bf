"""What int8 depends on of the CPU."""


def multiplies_int8_exactly() -> bool:
    """Without VNNI or AMX, u8 x s8 products saturate at 16 bits: weights then get 7 bits."""
    from serving.cpu import cpu_features

    return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & cpu_features())


def qualified_features() -> tuple[str, ...]:
    """The CPU features int8 answers depend on, of this machine: a bundle qualified here is refused where one is
    missing."""
    from serving.cpu import cpu_features

    return tuple(sorted({"avx2", "avx512_vnni", "avx_vnni"} & cpu_features()))


def computes_with() -> tuple[str, ...]:
    """What the answers of any recipe may depend on here: the features of int8 and of bf16."""
    from serving.cpu import cpu_features
    from serving.runtimes import BF16_FEATURES

    return tuple(sorted({*qualified_features(), *(BF16_FEATURES & cpu_features())}))
