// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/allocator.hpp"
#include "core/dtype.hpp"
#include "core/weight.hpp"

namespace portolan {

/// One product for oneDNN: out[rows, out_features] = x[rows, in_features] W^T. All operands are
/// dense: strided ones would get its reference implementation.
struct OneDnnProblem {
  std::int64_t rows = 0;
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  DType x_dtype = DType::f32;
  DType weight_dtype = DType::f32;
  DType out_dtype = DType::f32;
  WeightLayout layout = WeightLayout::panels;
  bool x_transposed = false;       ///< x is stored [in_features, rows]
  bool weight_transposed = false;  ///< a plain weight is stored [in_features, out_features]
  bool accumulate = false;
  std::optional<DType> bias_dtype = {};  ///< of a bias [out_features]; none: no bias

  friend bool operator==(const OneDnnProblem&, const OneDnnProblem&) = default;
};

/// Products by oneDNN. A primitive is made once per problem and kept; after that a call costs a
/// hash lookup. Scratch memory comes from the given allocator. Calls come from one thread at a
/// time.
class OneDnnMatmul {
 public:
  explicit OneDnnMatmul(CachingAllocator& allocator);
  ~OneDnnMatmul();
  OneDnnMatmul(const OneDnnMatmul&) = delete;
  OneDnnMatmul& operator=(const OneDnnMatmul&) = delete;

  /// Whether products with panels of that dtype have a fast implementation on this CPU.
  [[nodiscard]] bool has_fast_panels(DType dtype) const;

  void multiply(const OneDnnProblem& problem, const void* x, const void* weight, void* out,
                const void* bias = nullptr);

  /// Name of the implementation that oneDNN chose, e.g. "brg:avx512_core".
  [[nodiscard]] std::string implementation(const OneDnnProblem& problem);
  /// Version and implementations, for records.
  [[nodiscard]] std::string description() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace portolan
