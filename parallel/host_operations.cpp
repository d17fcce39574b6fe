// SPDX-License-Identifier: Apache-2.0
#include "parallel/host_operations.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

// Below these, starting threads costs more than it saves; copies have less to do per byte.
constexpr std::int64_t kBackendBytes = std::int64_t{64} << 10;
constexpr std::int64_t kBackendCopyBytes = std::int64_t{1} << 20;
// A block of accumulators stays in the first-level cache.
constexpr std::int64_t kBlock = 1024;

template <typename T>
void sum_portably(std::span<const std::byte* const> inputs, std::span<std::byte* const> outs,
                  std::int64_t elements) {
  std::array<float, kBlock> sums;
  for (std::int64_t begin = 0; begin < elements; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, elements - begin);
    const T* first = reinterpret_cast<const T*>(inputs[0]) + begin;
    for (std::int64_t i = 0; i < count; ++i) sums[static_cast<std::size_t>(i)] = to_float(first[i]);
    for (const std::byte* input : inputs.subspan(1)) {
      const T* values = reinterpret_cast<const T*>(input) + begin;
      for (std::int64_t i = 0; i < count; ++i) {
        sums[static_cast<std::size_t>(i)] += to_float(values[i]);
      }
    }
    for (std::byte* out : outs) {
      T* values = reinterpret_cast<T*>(out) + begin;
      for (std::int64_t i = 0; i < count; ++i) {
        values[i] = from_float<T>(sums[static_cast<std::size_t>(i)]);
      }
    }
  }
}

Tensor borrow(const std::byte* data, std::int64_t elements, DType dtype, Device device) {
  return Tensor::borrow(const_cast<std::byte*>(data), {elements}, dtype, device);
}

}  // namespace

void sum_in_order(std::span<const std::byte* const> inputs, std::span<std::byte* const> outs,
                  std::int64_t elements, DType dtype, Device device) {
  if (elements == 0) return;
  if (elements * static_cast<std::int64_t>(size_of(dtype)) >= kBackendBytes &&
      has_backend(device)) {
    std::vector<Tensor> sources;
    std::vector<Tensor> targets;
    for (const std::byte* input : inputs) sources.push_back(borrow(input, elements, dtype, device));
    for (std::byte* out : outs) targets.push_back(borrow(out, elements, dtype, device));
    ops::sum(sources, targets);
    return;
  }
  switch (dtype) {
    case DType::f32:
      return sum_portably<float>(inputs, outs, elements);
    case DType::bf16:
      return sum_portably<BFloat16>(inputs, outs, elements);
    case DType::f16:
      return sum_portably<Float16>(inputs, outs, elements);
    default:
      throw UsageError(
          fmt::format("sums over ranks are of f32, bf16 or f16, found {}", name_of(dtype)));
  }
}

void copy_dense(std::byte* to, const std::byte* from, std::int64_t bytes, DType dtype,
                Device device) {
  if (bytes <= 0 || to == from) return;
  if (bytes >= kBackendCopyBytes && is_floating(dtype) && has_backend(device)) {
    const std::int64_t elements = bytes / static_cast<std::int64_t>(size_of(dtype));
    ops::copy(borrow(from, elements, dtype, device), borrow(to, elements, dtype, device));
  } else {
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  }
}

}  // namespace portolan
