// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string_view>

#include "core/error.hpp"
#include "models/meta_config.hpp"

/// Any text gives an InputError or a config within the bounds, which params.json can say again.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace portolan;
  try {
    LlamaConfig config = parse_meta_config({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (config.layers > kMaximumLayers || config.vocab_size > kMaximumVocabSize) std::abort();
    // Left to the tokenizer, or to the reader's knowledge of Meta's releases.
    if (config.vocab_size == 0) config.vocab_size = 1;
    LlamaConfig again = parse_meta_config(meta_config_text(config), "again");
    again.max_position_embeddings = config.max_position_embeddings;
    if (again != config) std::abort();
  } catch (const InputError& error) {
    if (std::string_view(error.what()).starts_with("again")) std::abort();
  }
  return 0;
}
