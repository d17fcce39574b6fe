// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string_view>

#include "core/error.hpp"
#include "models/config.hpp"

/// Any text gives an InputError or a config within the bounds.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace portolan;
  try {
    const ModelConfig config =
        parse_model_config({reinterpret_cast<const char*>(data), size}, "fuzz");
    const CommonConfig& common = config.common();
    if (common.layers > kMaximumLayers || common.vocab_size > kMaximumVocabSize) std::abort();
    if (common.layers < 100 && parameter_count(config) <= 0) std::abort();
  } catch (const InputError&) {
  }
  return 0;
}
