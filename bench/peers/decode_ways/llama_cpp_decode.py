# SPDX-License-Identifier: Apache-2.0
"""Times llama.cpp's prompt and tokens through its C interface; prints one JSON object."""

import ctypes
import json
import time

import llama_cpp
import numpy

import shape

HALF_BYTES = 2  # of the cache, which llama.cpp keeps in f16


def quiet(level, text, data):
    del level, text, data


class Engine:
    def __init__(self, path, context, threads):
        self.log = llama_cpp.llama_log_callback(quiet)
        llama_cpp.llama_log_set(self.log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params())
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context
        parameters.n_batch = context
        parameters.n_threads = threads
        parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise SystemExit(f"llama_cpp_decode: {path}: llama.cpp does not take it")

    def forget(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def next_token(self, ids):
        """Runs the tokens and returns the likeliest to follow."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        status = llama_cpp.llama_decode(
            self.context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        if status != 0:
            raise SystemExit(f"llama_cpp_decode: llama.cpp answers {status}")
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return int(numpy.ctypeslib.as_array(logits, (shape.VOCABULARY,)).argmax())


def main():
    parser = shape.parser(__doc__)
    parser.add_argument("--weights", required=True)
    options = parser.parse_args()
    engine = Engine(options.weights, options.prompt + options.tokens, options.threads)
    prompt = numpy.random.default_rng(0).integers(3, shape.VOCABULARY, options.prompt).tolist()
    engine.next_token(prompt)  # warms up
    prompt_seconds = []
    for _ in range(shape.PROMPT_SAMPLES):
        engine.forget()
        start = time.perf_counter()
        token = engine.next_token(prompt)
        prompt_seconds.append(time.perf_counter() - start)
    token_seconds = []
    for _ in range(options.tokens):
        start = time.perf_counter()
        token = engine.next_token([token])
        token_seconds.append(time.perf_counter() - start)
    bits = {"f32": 32, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5}
    form = options.weights.rsplit("-", 1)[1].removesuffix(".gguf")
    cache = HALF_BYTES * shape.cache_elements(options.prompt + options.tokens // 2)
    print(json.dumps({"prompt_s": prompt_seconds, "token_s": token_seconds,
                      "bytes": shape.product_weights() * bits[form] / 8 + cache}))


main()
