// SPDX-License-Identifier: Apache-2.0
#pragma once

/// What this GPU does at best, measured.
namespace portolan::cuda_bench {

/// FLOP/s of a product of 8192 x 8192 bf16 matrices by cuBLASLt, on random operands.
[[nodiscard]] double measure_product_rate();

/// Bytes read and written per second by a copy of 2 GB.
[[nodiscard]] double measure_copy_rate();

}  // namespace portolan::cuda_bench
