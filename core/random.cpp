// SPDX-License-Identifier: Apache-2.0
#include "core/random.hpp"

namespace portolan {

RandomKey random_key(std::uint64_t seed, std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const char character : name) {
    hash ^= static_cast<unsigned char>(character);
    hash *= 0x100000001B3u;
  }
  return {seed, hash};
}

}  // namespace portolan
