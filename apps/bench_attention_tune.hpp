// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/attention_pass.hpp"
#include "apps/options.hpp"

namespace portolan {

/// What `bench attention --tune` is asked to do.
struct TuneRequest {
  CommonOptions common;
  std::vector<DType> dtypes;
  std::vector<std::int64_t> head_dims;
  std::vector<std::int64_t> lengths;
  AttentionBenchmarkCase shape;  ///< batch and heads
  int rounds = 7;
  std::string file;
};

/// Measures tile sizes for each dtype and head_dim, prints what each candidate took, and keeps the
/// best in the file, which is known to be writable before anything is measured. Throws UsageError
/// for another device than cpu and for several ranks.
void tune_attention(const TuneRequest& request);

}  // namespace portolan
