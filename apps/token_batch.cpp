// SPDX-License-Identifier: Apache-2.0
#include "apps/token_batch.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "apps/options.hpp"
#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "core/trimmed.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kLargestId = std::numeric_limits<std::int32_t>::max();

[[noreturn]] void refuse(const SafetensorsFile& file, const SafetensorsEntry& entry,
                         std::string_view dtypes) {
  throw InputError(fmt::format("{}: tensor '{}': expected [batch, seq] of {}, found {} {}",
                               file.name(), entry.name, dtypes, shape_text(entry.shape),
                               entry.dtype_name));
}

bool has_tokens(const SafetensorsEntry& entry) {
  return entry.shape.size() == 2 && (entry.dtype_name == "I64" || entry.dtype_name == "I32");
}

/// As read_token_tensor, and of BOOL or U8, as masks that were computed often are.
std::vector<std::int64_t> read_mask(const SafetensorsFile& file, const SafetensorsEntry& entry) {
  if (has_tokens(entry)) return read_token_tensor(file, entry.name);
  if (entry.shape.size() != 2 || (entry.dtype_name != "BOOL" && entry.dtype_name != "U8")) {
    refuse(file, entry, "I64, I32, BOOL or U8");
  }
  std::vector<std::int64_t> mask(static_cast<std::size_t>(entry.elements()));
  std::ranges::transform(file.bytes(entry), mask.begin(),
                         [](std::byte value) { return std::to_integer<std::int64_t>(value); });
  return mask;
}

}  // namespace

std::vector<std::int64_t> read_token_tensor(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry& entry = file.at(name);
  if (!has_tokens(entry)) refuse(file, entry, "I64 or I32");
  std::vector<std::int64_t> values(static_cast<std::size_t>(entry.elements()));
  if (entry.dtype_name == "I64") {
    file.read(entry, values.data(), DType::i64);
  } else {
    std::vector<std::int32_t> narrow(values.size());
    file.read(entry, narrow.data(), DType::i32);
    std::ranges::copy(narrow, values.begin());
  }
  return values;
}

TokenBatch parse_token_ids(const std::string& text) {
  TokenBatch batch;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(';', begin), text.size());
    TokenBatch::Row row;
    for (std::size_t item = begin; item <= end;) {
      const std::size_t comma = std::min(text.find(',', item), end);
      // "1, 2" is what lists look like elsewhere.
      const std::string id(trimmed(std::string_view(text).substr(item, comma - item), " "));
      row.ids.push_back(static_cast<std::int32_t>(parse_integer("--ids", id, 0, kLargestId)));
      item = comma + 1;
    }
    batch.length = std::max(batch.length, static_cast<std::int64_t>(row.ids.size()));
    batch.rows.push_back(std::move(row));
    begin = end + 1;
  }
  return batch;
}

TokenBatch read_token_batch(const std::string& path) {
  const SafetensorsFile file(path);
  const SafetensorsEntry& ids_entry = file.at("input_ids");
  const std::vector<std::int64_t> ids = read_token_tensor(file, "input_ids");
  std::vector<std::int64_t> mask(ids.size(), 1);
  if (const SafetensorsEntry* entry = file.find("attention_mask")) {
    mask = read_mask(file, *entry);
    if (entry->shape != ids_entry.shape) {
      throw InputError(
          fmt::format("{}: tensor 'attention_mask': expected the shape {} of input_ids, "
                      "found {}",
                      path, shape_text(ids_entry.shape), shape_text(entry->shape)));
    }
  }
  TokenBatch batch;
  batch.length = ids_entry.shape[1];
  for (std::int64_t b = 0; b < ids_entry.shape[0]; ++b) {
    TokenBatch::Row row;
    for (std::int64_t t = 0; t < batch.length; ++t) {
      const auto at = static_cast<std::size_t>(b * batch.length + t);
      if (mask[at] != 0 && mask[at] != 1) {
        throw InputError(
            fmt::format("{}: tensor 'attention_mask': expected 0 or 1, found {}", path, mask[at]));
      }
      if (mask[at] == 0) continue;
      if (ids[at] < 0 || ids[at] > kLargestId) {
        throw InputError(
            fmt::format("{}: tensor 'input_ids': {} is not a token id", path, ids[at]));
      }
      if (row.ids.empty()) row.first = t;
      if (row.first + static_cast<std::int64_t>(row.ids.size()) != t) {
        throw InputError(fmt::format(
            "{}: tensor 'attention_mask': expected one run of ones in row {}, found a gap", path,
            b));
      }
      row.ids.push_back(static_cast<std::int32_t>(ids[at]));
    }
    batch.rows.push_back(std::move(row));
  }
  return batch;
}

void require_in_vocabulary(std::span<const std::int32_t> ids, std::int64_t vocabulary,
                           std::string_view source) {
  for (const std::int32_t id : ids) {
    require(id < vocabulary, "{}: token id {} lies outside the model's vocabulary of {}", source,
            id, vocabulary);
  }
}

}  // namespace portolan
