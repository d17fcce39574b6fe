// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>
#include <utility>

#include "core/dtype.hpp"
#include "core/error.hpp"

namespace portolan {

/// Calls `function(std::type_identity<T>{})` with the element type of a dtype the engine computes
/// in.
template <class Function>
void dispatch_floating(DType dtype, Function&& function) {
  switch (dtype) {
    case DType::f32:
      return std::forward<Function>(function)(std::type_identity<float>{});
    case DType::bf16:
      return std::forward<Function>(function)(std::type_identity<BFloat16>{});
    case DType::f16:
      return std::forward<Function>(function)(std::type_identity<Float16>{});
    default:
      throw UnsupportedError(
          fmt::format("kernels compute in f32, bf16 and f16, found {}", name_of(dtype)));
  }
}

/// As above with two dtypes.
template <class Function>
void dispatch_floating(DType first, DType second, Function&& function) {
  dispatch_floating(first, [&](auto first_type) {
    dispatch_floating(second, [&](auto second_type) { function(first_type, second_type); });
  });
}

/// For an operand whose dtype is that of the activations, or f32: weights, gradients.
template <class Function>
void dispatch_with_parameters(DType dtype, DType parameters, Function&& function) {
  dispatch_floating(dtype, [&](auto type) {
    if (parameters == dtype) {
      function(type, type);
    } else {
      require(parameters == DType::f32, "an operand beside {} is {} or f32, found {}",
              name_of(dtype), name_of(dtype), name_of(parameters));
      function(type, std::type_identity<float>{});
    }
  });
}

}  // namespace portolan
