// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Token ids as the command line and files give them.
namespace portolan {

class SafetensorsFile;

/// Token ids of a batch; rows of the result of `logits` are as long as the longest.
struct TokenBatch {
  struct Row {
    std::vector<std::int32_t> ids;  ///< the real tokens
    std::int64_t first = 0;         ///< column of the first of them
  };
  std::vector<Row> rows;
  std::int64_t length = 0;  ///< columns
};

/// "1,2,3;4,5,6": sequences may differ in length. Throws UsageError.
[[nodiscard]] TokenBatch parse_token_ids(const std::string& text);

/// A safetensors file with `input_ids` [batch, seq], I32 or I64, and maybe `attention_mask` of that
/// shape (I32, I64, BOOL or U8; 0 or 1, one run of ones in each row). Throws InputError naming file
/// and tensor.
[[nodiscard]] TokenBatch read_token_batch(const std::string& path);

/// A tensor [batch, seq] of I64 or I32. Throws InputError naming file and tensor.
[[nodiscard]] std::vector<std::int64_t> read_token_tensor(const SafetensorsFile& file,
                                                          const std::string& name);

/// A model takes an id outside its vocabulary for no token at all, and computes on: so it is
/// refused before. Throws UsageError "SOURCE: ..."; `source` is where the ids are from.
void require_in_vocabulary(std::span<const std::int32_t> ids, std::int64_t vocabulary,
                           std::string_view source);

}  // namespace portolan
