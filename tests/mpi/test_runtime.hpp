// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/device.hpp"
#include "core/tensor.hpp"
#include "parallel/communicator.hpp"

/// What tests that run under mpirun share: the ranks and the device that main() has set up.
namespace portolan {

[[nodiscard]] Communicator& test_world();
[[nodiscard]] Device test_device();
/// Sum of a whole number over the ranks. Collective.
[[nodiscard]] std::int64_t test_sum(std::int64_t value);
/// The elements of an f32 tensor, wherever it is.
[[nodiscard]] std::vector<float> values_of(const Tensor& tensor);

}  // namespace portolan
