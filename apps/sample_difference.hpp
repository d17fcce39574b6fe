// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>

namespace portolan {

/// How far the logits of one run are from another's.
struct SampleDifference {
  double max_abs_difference = 0.0;
  /// Largest |logit| of the reference.
  double largest_logit = 0.0;
};

/// Compares `logits.L` [n, vocab] f32 of two safetensors files for the length L, whose `rows.L` [n]
/// i64 must name the same rows. A NaN or infinity in either makes the difference infinite. Throws
/// InputError when a file lacks them, or they differ in shape or rows.
[[nodiscard]] SampleDifference compare_samples(const std::filesystem::path& samples,
                                               const std::filesystem::path& reference,
                                               std::int64_t seq_len);

}  // namespace portolan
