// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "models/tokenizers/vocabulary.hpp"

namespace portolan {

/// The tokens <0xNN> of a vocabulary, which spell what has no token of its own byte by byte.
class ByteTokens {
 public:
  explicit ByteTokens(const Vocabulary& vocabulary);

  /// Appends those of the bytes of `text`. False, and nothing changes, unless there are all of
  /// them.
  bool append(std::string_view text, std::vector<TokenId>& symbols) const;

 private:
  std::array<TokenId, 256> tokens_;  ///< -1 where there is none
};

}  // namespace portolan
