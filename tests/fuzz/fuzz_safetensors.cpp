// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <span>

#include "core/error.hpp"
#include "core/safetensors.hpp"

/// Any bytes give an InputError or entries that lie within the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace portolan;
  try {
    const SafetensorsHeader header =
        parse_safetensors(std::as_bytes(std::span(data, size)), "fuzz");
    for (const SafetensorsEntry& entry : header.entries) {
      if (entry.begin > entry.end || entry.end > size - header.data_begin) std::abort();
      if (entry.dtype && static_cast<std::uint64_t>(entry.elements()) * size_of(*entry.dtype) !=
                             entry.byte_size()) {
        std::abort();
      }
    }
  } catch (const InputError&) {
  }
  return 0;
}
