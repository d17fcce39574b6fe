// SPDX-License-Identifier: Apache-2.0
#include "apps/attention_file.hpp"

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

template <typename... Arguments>
[[noreturn]] void fail(const SafetensorsFile& file, std::string_view tensor,
                       fmt::format_string<Arguments...> message, Arguments&&... arguments) {
  throw InputError(fmt::format("{}: tensor '{}': {}", file.name(), tensor,
                               fmt::format(message, std::forward<Arguments>(arguments)...)));
}

void require_shape(const SafetensorsFile& file, const SafetensorsEntry& entry,
                   const std::vector<std::int64_t>& expected, std::string_view why) {
  if (entry.shape == expected) return;
  fail(file, entry.name, "expected {} {}, found {}", shape_text(expected), why,
       shape_text(entry.shape));
}

Device host_device() {
  return {has_backend({DeviceKind::cpu, 0}) ? DeviceKind::cpu : DeviceKind::serial, 0};
}

/// [a, b, c, d] in host memory as dense [a, c, b, d].
Tensor swap_middle(const Tensor& tensor) {
  const Tensor swapped = Tensor::empty({tensor.dim(0), tensor.dim(2), tensor.dim(1), tensor.dim(3)},
                                       tensor.dtype(), tensor.device());
  if (tensor.elements() == 0) return swapped;
  const std::int64_t inner = tensor.dim(1);
  const std::int64_t outer = tensor.dim(2);
  const std::size_t row_bytes = static_cast<std::size_t>(tensor.dim(3)) * size_of(tensor.dtype());
  for (std::int64_t a = 0; a < tensor.dim(0); ++a) {
    for (std::int64_t b = 0; b < inner; ++b) {
      for (std::int64_t c = 0; c < outer; ++c) {
        const std::int64_t from = (a * inner + b) * outer + c;
        const std::int64_t to = (a * outer + c) * inner + b;
        std::memcpy(swapped.raw() + static_cast<std::size_t>(to) * row_bytes,
                    tensor.raw() + static_cast<std::size_t>(from) * row_bytes, row_bytes);
      }
    }
  }
  return swapped;
}

/// Where each sequence starts in `tokens` rows, and their end.
std::vector<std::int64_t> read_offsets(const SafetensorsFile& file, std::string_view name,
                                       std::int64_t tokens) {
  const SafetensorsEntry& entry = file.at(name);
  const bool integers = entry.dtype == DType::i32 || entry.dtype == DType::i64;
  if (entry.shape.size() != 1 || entry.shape[0] < 2 || !integers) {
    fail(file, name, "expected [sequences + 1] of I32 or I64, found {} {}", shape_text(entry.shape),
         entry.dtype_name);
  }
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(entry.elements()));
  if (entry.dtype == DType::i64) {
    file.read(entry, offsets.data(), DType::i64);
  } else {
    std::vector<std::int32_t> narrow(offsets.size());
    file.read(entry, narrow.data(), DType::i32);
    offsets.assign(narrow.begin(), narrow.end());
  }
  if (offsets.front() != 0) fail(file, name, "must start with 0, found {}", offsets.front());
  for (std::size_t i = 1; i < offsets.size(); ++i) {
    if (offsets[i] < offsets[i - 1]) {
      fail(file, name, "must not descend, found {} after {}", offsets[i], offsets[i - 1]);
    }
  }
  if (offsets.back() != tokens) {
    fail(file, name, "must end with the {} tokens, found {}", tokens, offsets.back());
  }
  return offsets;
}

}  // namespace

AttentionFile::AttentionFile(const AttentionRequest& request)
    : layout_(request.layout), file_(request.input) {
  mask_.causal = request.causal || request.window > 0;
  mask_.window = request.window;
  check_operands(request);
  read_sequences();
  read_block_map(request);
}

const SafetensorsEntry& AttentionFile::operand(std::string_view name) const {
  const SafetensorsEntry& entry = file_.at(name);
  const bool packed = layout_ == AttentionFileLayout::packed;
  if (entry.shape.size() != (packed ? 3U : 4U)) {
    fail(file_, name, "expected {}, found {}",
         packed ? "[tokens, heads, head_dim]" : "[batch, heads, tokens, head_dim]",
         shape_text(entry.shape));
  }
  if (!entry.dtype || !is_floating(*entry.dtype)) {
    fail(file_, name, "expected F32, BF16 or F16, found {}", entry.dtype_name);
  }
  return entry;
}

void AttentionFile::check_operands(const AttentionRequest& request) {
  const bool packed = layout_ == AttentionFileLayout::packed;
  const SafetensorsEntry& q = operand("q");
  const SafetensorsEntry& k = operand("k");
  dtype_ = *q.dtype;
  extents_ = packed
                 ? AttentionExtents{1, q.shape[0], k.shape[0], q.shape[1], k.shape[1], q.shape[2]}
                 : AttentionExtents{q.shape[0], q.shape[2], k.shape[2],
                                    q.shape[1], k.shape[1], q.shape[3]};
  const std::int64_t head_dim = extents_.head_dim;
  if (head_dim < 1 || head_dim > kMaximumAttentionHeadDim) {
    fail(file_, "q", "head_dim must lie in 1 to {}, found {}", kMaximumAttentionHeadDim, head_dim);
  }
  if (extents_.key_heads < 1 || extents_.heads % extents_.key_heads != 0) {
    fail(file_, "k", "{} query heads must be a multiple of the key heads, found {}", extents_.heads,
         extents_.key_heads);
  }
  require_shape(file_, k, key_shape(), "by the shape of q");
  require_shape(file_, operand("v"), key_shape(), "as k");
  if (request.backward) require_shape(file_, operand("do"), query_shape(), "as q");
  if (request.common.dtype) return;
  for (const char* name : {"k", "v", "do"}) {
    const SafetensorsEntry* entry = file_.find(name);
    if (entry == nullptr || (!request.backward && entry->name == "do")) continue;
    if (entry->dtype != dtype_) {
      fail(file_, name, "expected {} as q, found {} (--dtype converts all of them)", q.dtype_name,
           entry->dtype_name);
    }
  }
}

void AttentionFile::read_sequences() {
  const bool packed = layout_ == AttentionFileLayout::packed;
  if (!packed) {
    for (const char* name : {"cu_seqlens_q", "cu_seqlens_k"}) {
      if (file_.find(name) != nullptr) fail(file_, name, "belongs to --layout packed");
    }
    return;
  }
  const auto queries = read_offsets(file_, "cu_seqlens_q", extents_.query_tokens);
  const auto keys = read_offsets(file_, "cu_seqlens_k", extents_.key_tokens);
  if (queries.size() != keys.size()) {
    fail(file_, "cu_seqlens_k", "expected {} sequences as in cu_seqlens_q, found {}",
         queries.size() - 1, keys.size() - 1);
  }
  for (std::size_t i = 0; i + 1 < queries.size(); ++i) {
    const std::int64_t query_tokens = queries[i + 1] - queries[i];
    const std::int64_t key_tokens = keys[i + 1] - keys[i];
    const auto sequence = static_cast<std::int64_t>(i);
    mask_.query_runs.push_back({key_tokens - query_tokens, query_tokens, sequence});
    mask_.key_runs.push_back({0, key_tokens, sequence});
  }
}

void AttentionFile::read_block_map(const AttentionRequest& request) {
  const SafetensorsEntry* entry = file_.find("block_map");
  if (entry == nullptr) {
    require(!request.block && request.method != AttentionMethod::block_sparse,
            "{}: {} needs a tensor 'block_map'", file_.name(),
            request.block ? "--block" : "--method block-sparse");
    return;
  }
  require(request.block.has_value(), "{}: tensor 'block_map' needs --block BQ,BK", file_.name());
  if (entry->dtype != DType::u8) {
    fail(file_, entry->name, "expected U8, found {}", entry->dtype_name);
  }
  const auto blocks = [](std::int64_t tokens, std::int64_t size) {
    return (tokens + size - 1) / size;
  };
  const auto [block_queries, block_keys] = *request.block;
  const std::int64_t rows = blocks(extents_.query_tokens, block_queries);
  const std::int64_t columns = blocks(extents_.key_tokens, block_keys);
  require_shape(file_, *entry, {extents_.heads, rows, columns}, "by --block and the shape of q, k");
  std::vector<std::uint8_t> flags(static_cast<std::size_t>(entry->elements()));
  file_.read(*entry, flags.data(), DType::u8);
  mask_.blocks = std::make_shared<const BlockMap>(
      block_map_from_flags(extents_.heads, rows, columns, block_queries, block_keys, flags.data()));
}

std::vector<std::int64_t> AttentionFile::query_shape() const {
  const AttentionExtents& e = extents_;
  if (layout_ == AttentionFileLayout::packed) return {e.query_tokens, e.heads, e.head_dim};
  return {e.batch, e.heads, e.query_tokens, e.head_dim};
}

std::vector<std::int64_t> AttentionFile::key_shape() const {
  const AttentionExtents& e = extents_;
  if (layout_ == AttentionFileLayout::packed) return {e.key_tokens, e.key_heads, e.head_dim};
  return {e.batch, e.key_heads, e.key_tokens, e.head_dim};
}

std::vector<std::int64_t> AttentionFile::log_sum_exp_shape() const {
  const AttentionExtents& e = extents_;
  if (layout_ == AttentionFileLayout::packed) return {e.heads, e.query_tokens};
  return {e.batch, e.heads, e.query_tokens};
}

Tensor AttentionFile::read(std::string_view name, DType dtype, Device device) const {
  const SafetensorsEntry& entry = file_.at(name);
  const std::vector<std::int64_t>& s = entry.shape;
  const bool packed = layout_ == AttentionFileLayout::packed;
  const Shape shape = packed ? Shape{1, s[0], s[1], s[2]} : Shape{s[0], s[1], s[2], s[3]};
  const Tensor stored = Tensor::empty(shape, dtype, is_host(device) ? device : host_device());
  file_.read(entry, stored.raw(), dtype);
  return ops::to_device(packed ? stored : swap_middle(stored), device);
}

Tensor AttentionFile::in_file_order(const Tensor& tensor) const {
  const Tensor host = ops::to_host(tensor);
  return layout_ == AttentionFileLayout::packed ? host : swap_middle(host);
}

}  // namespace portolan
