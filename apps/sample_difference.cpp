// SPDX-License-Identifier: Apache-2.0
#include "apps/sample_difference.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.hpp"
#include "core/safetensors.hpp"

namespace portolan {
namespace {

struct Samples {
  std::vector<std::int64_t> rows;
  std::vector<float> logits;
};

Samples read_samples(const std::filesystem::path& path, std::int64_t seq_len) {
  const SafetensorsFile file(path);
  const std::string rows_name = fmt::format("rows.{}", seq_len);
  const std::string logits_name = fmt::format("logits.{}", seq_len);
  const SafetensorsEntry& rows = file.at(rows_name);
  const SafetensorsEntry& logits = file.at(logits_name);
  if (rows.dtype != DType::i64 || rows.shape.size() != 1) {
    throw InputError(fmt::format("{}: tensor '{}': expected I64 of one dimension, found {} {}",
                                 file.name(), rows_name, rows.dtype_name, shape_text(rows.shape)));
  }
  if (logits.dtype != DType::f32 || logits.shape.size() != 2 || logits.shape[0] != rows.shape[0]) {
    throw InputError(fmt::format("{}: tensor '{}': expected F32 [{}, vocabulary], found {} {}",
                                 file.name(), logits_name, rows.shape[0], logits.dtype_name,
                                 shape_text(logits.shape)));
  }
  Samples samples;
  samples.rows.resize(static_cast<std::size_t>(rows.elements()));
  file.read(rows, samples.rows.data(), DType::i64);
  samples.logits.resize(static_cast<std::size_t>(logits.elements()));
  file.read(logits, samples.logits.data(), DType::f32);
  return samples;
}

}  // namespace

SampleDifference compare_samples(const std::filesystem::path& samples,
                                 const std::filesystem::path& reference, std::int64_t seq_len) {
  const Samples found = read_samples(samples, seq_len);
  const Samples expected = read_samples(reference, seq_len);
  if (found.rows != expected.rows || found.logits.size() != expected.logits.size()) {
    throw InputError(fmt::format("{}: length {}: expected the rows and vocabulary of {}",
                                 samples.string(), seq_len, reference.string()));
  }
  SampleDifference result;
  for (std::size_t i = 0; i < found.logits.size(); ++i) {
    const double a = found.logits[i];
    const double b = expected.logits[i];
    // Not fmax: a NaN must not be passed over.
    if (!std::isfinite(a) || !std::isfinite(b)) {
      result.max_abs_difference = std::numeric_limits<double>::infinity();
    }
    result.max_abs_difference = std::max(result.max_abs_difference, std::abs(a - b));
    result.largest_logit = std::max(result.largest_logit, std::abs(b));
  }
  return result;
}

}  // namespace portolan
