// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/backend.hpp"
#include "models/forward_options.hpp"
#include "parallel/key_value_cache.hpp"

namespace portolan {

class Model;

/// Appends tokens to the sequences of a cache, one each at a time, by a forward pass that is
/// recorded once (Backend::run_and_record) and then started again: how many tokens there are is
/// read from device memory. For one rank. `model` and `cache` must outlive it, and the cache's
/// sequences must stay the same; afterwards the cache can be used as before.
class RecordedDecoding {
 public:
  RecordedDecoding(const Model& model, KeyValueCache& cache);
  ~RecordedDecoding();
  RecordedDecoding(const RecordedDecoding&) = delete;
  RecordedDecoding& operator=(const RecordedDecoding&) = delete;

  /// One token of each sequence; `real_tokens` of each, this one included. Returns the logits of
  /// the tokens that follow, f32 [batch, vocab] on the model's device, which the next call
  /// overwrites. Throws UsageError as a forward pass does.
  [[nodiscard]] const Tensor& append(std::span<const std::int32_t> ids,
                                     const std::vector<KeyRange>& real_tokens);

 private:
  const Model& model_;
  KeyValueCache& cache_;
  Tensor inputs_;  ///< i32: ids [batch], positions [batch], rows of the cache [batch, 2]
  Tensor logits_;
  std::unique_ptr<RecordedWork> pass_;
};

}  // namespace portolan
