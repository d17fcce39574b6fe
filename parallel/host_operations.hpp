// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/device.hpp"
#include "core/dtype.hpp"

/// What transports do with host memory. Long operations go to the backend of the device where there
/// is one, which uses all threads of the rank.
namespace portolan {

/// Each of outs = inputs[0] + inputs[1] + ..., `elements` values each, summed in that order in f32
/// and rounded once: the same bits whoever computes them. outs may be among the inputs, otherwise
/// nothing overlaps. Long sums go to the backend of the (host) device where there is one.
void sum_in_order(std::span<const std::byte* const> inputs, std::span<std::byte* const> outs,
                  std::int64_t elements, DType dtype, Device device);

/// Copies dense memory of that dtype; nothing to do if both are the same place.
void copy_dense(std::byte* to, const std::byte* from, std::int64_t bytes, DType dtype,
                Device device);

}  // namespace portolan
