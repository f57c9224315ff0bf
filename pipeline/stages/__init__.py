"""The stages: each a config and `run(config, inputs, out, tools) -> facts`, a plain function over sealed artifacts."""
