"""Builders of small checkpoints with random weights, one module per kind of model.

A saved checkpoint loads like one from the hub: configuration, safetensors, processor and a
tokenizer trained on the prompts. Nothing is downloaded. The answers of such a model mean nothing,
but its speed is that of the architecture, because speed does not depend on the values of weights.
"""
