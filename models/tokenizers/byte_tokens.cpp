// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/byte_tokens.hpp"

#include <fmt/format.h>

#include <cstdint>

namespace portolan {
namespace {

constexpr TokenId kAbsent = -1;

}  // namespace

ByteTokens::ByteTokens(const Vocabulary& vocabulary) {
  for (std::size_t byte = 0; byte < tokens_.size(); ++byte) {
    tokens_[byte] = vocabulary.find(fmt::format("<0x{:02X}>", byte)).value_or(kAbsent);
  }
}

bool ByteTokens::append(std::string_view text, std::vector<TokenId>& symbols) const {
  const std::size_t before = symbols.size();
  for (const char byte : text) {
    const TokenId token = tokens_[static_cast<std::uint8_t>(byte)];
    if (token == kAbsent) {
      symbols.resize(before);
      return false;
    }
    symbols.push_back(token);
  }
  return true;
}

}  // namespace portolan
