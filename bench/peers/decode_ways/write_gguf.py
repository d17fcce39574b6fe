# SPDX-License-Identifier: Apache-2.0
"""Writes a LLaMA of the sizes in shape.py with random weights for llama.cpp: FILE f32|bf16|q8_0|q4_0.

Norms stay f32, as llama.cpp wants them.
"""

import math
import sys

import gguf
import numpy

import shape

TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


class Writer:
    def __init__(self, path, form):
        self.type, file_type = TYPES[form]
        random = numpy.random.default_rng(0)
        # Distinct memory for every matrix, not distinct numbers: quantizing once is enough.
        self.rows = random.standard_normal((256, shape.INTERMEDIATE), dtype=numpy.float32)
        self.rows *= shape.STANDARD_DEVIATION
        self.file = gguf.GGUFWriter(path, "llama")
        self.file.add_context_length(shape.CONTEXT)
        self.file.add_embedding_length(shape.HIDDEN)
        self.file.add_block_count(shape.LAYERS)
        self.file.add_feed_forward_length(shape.INTERMEDIATE)
        self.file.add_head_count(shape.HEADS)
        self.file.add_head_count_kv(shape.KEY_VALUE_HEADS)
        self.file.add_layer_norm_rms_eps(shape.EPSILON)
        self.file.add_rope_dimension_count(shape.HIDDEN // shape.HEADS)
        self.file.add_rope_freq_base(shape.ROPE_THETA)
        self.file.add_vocab_size(shape.VOCABULARY)
        self.file.add_file_type(file_type)
        self.file.add_tokenizer_model("no_vocab")

    def norm(self, name):
        self.file.add_tensor(name + ".weight", numpy.ones(shape.HIDDEN, numpy.float32))

    def matrix(self, name, outputs, inputs):
        block = numpy.ascontiguousarray(self.rows[:, :inputs])
        if self.type != gguf.GGMLQuantizationType.F32:
            block = gguf.quants.quantize(block, self.type)
        copies = math.ceil(outputs / block.shape[0])
        self.file.add_tensor(name + ".weight", numpy.tile(block, (copies, 1))[:outputs],
                             raw_dtype=self.type)

    def close(self):
        self.file.write_header_to_file()
        self.file.write_kv_data_to_file()
        self.file.write_tensors_to_file()
        self.file.close()


def main():
    path, form = sys.argv[1:]
    writer = Writer(path, form)
    hidden, intermediate = shape.HIDDEN, shape.INTERMEDIATE
    key_value = hidden * shape.KEY_VALUE_HEADS // shape.HEADS
    writer.matrix("token_embd", shape.VOCABULARY, hidden)
    writer.norm("output_norm")
    writer.matrix("output", shape.VOCABULARY, hidden)
    for layer in range(shape.LAYERS):
        block = f"blk.{layer}."
        writer.norm(block + "attn_norm")
        writer.norm(block + "ffn_norm")
        writer.matrix(block + "attn_q", hidden, hidden)
        writer.matrix(block + "attn_k", key_value, hidden)
        writer.matrix(block + "attn_v", key_value, hidden)
        writer.matrix(block + "attn_output", hidden, hidden)
        writer.matrix(block + "ffn_gate", intermediate, hidden)
        writer.matrix(block + "ffn_up", intermediate, hidden)
        writer.matrix(block + "ffn_down", hidden, intermediate)
    writer.close()


main()
