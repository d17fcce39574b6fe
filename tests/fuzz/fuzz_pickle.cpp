// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cstdlib>
#include <span>
#include <string_view>

#include "core/error.hpp"
#include "core/pickle.hpp"

/// Any bytes give an InputError or a document whose references lead to values.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace portolan;
  constexpr std::array<std::string_view, 3> kAllowed{
      "collections.OrderedDict", "torch.FloatStorage", "torch._utils._rebuild_tensor_v2"};
  try {
    const PickleDocument document =
        parse_pickle(std::as_bytes(std::span(data, size)), "fuzz", kAllowed);
    if (document.root >= document.values.size() || document.values.size() > size) std::abort();
    for (const PickleValue& value : document.values) {
      const auto* dictionary = std::get_if<PickleDictionary>(&value);
      if (dictionary == nullptr) continue;
      for (const auto& [key, item] : dictionary->items) {
        if (key >= document.values.size() || item >= document.values.size()) std::abort();
      }
    }
  } catch (const InputError&) {
  }
  return 0;
}
