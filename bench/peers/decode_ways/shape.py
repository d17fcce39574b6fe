# SPDX-License-Identifier: Apache-2.0
"""Portolan's preset llama-1b, and the options that the peers of `bench/peers/decode` share."""

import argparse

HIDDEN = 2048
INTERMEDIATE = 8192
LAYERS = 16
HEADS = 32
KEY_VALUE_HEADS = 8
VOCABULARY = 32000
CONTEXT = 4096
EPSILON = 1e-5
ROPE_THETA = 10000.0
STANDARD_DEVIATION = 0.02
PROMPT_SAMPLES = 3


def product_weights():
    """Elements of the matrices that a token goes through: all but the embedding table."""
    key_value = HIDDEN * KEY_VALUE_HEADS // HEADS
    attention = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * key_value
    return LAYERS * (attention + 3 * HIDDEN * INTERMEDIATE) + VOCABULARY * HIDDEN


def cache_elements(tokens):
    """Of keys and values of so many tokens."""
    return 2 * LAYERS * tokens * HIDDEN * KEY_VALUE_HEADS // HEADS


def parser(description):
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--prompt", type=int, required=True)
    result.add_argument("--tokens", type=int, required=True)
    result.add_argument("--threads", type=int, required=True)
    return result
