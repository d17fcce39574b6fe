// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "core/tensor.hpp"

/// Comparison of results bit by bit between processes: Kokkos' threads are fixed for a process, so
/// this program starts itself anew as `unit_tests --checksums KIND THREADS`.
namespace portolan::testing_support {

/// Continues an FNV-1a checksum over a tensor's bytes.
inline constexpr std::uint64_t kChecksumStart = 14695981039346656037ULL;
[[nodiscard]] std::uint64_t checksum_of(const Tensor& tensor,
                                        std::uint64_t before = kChecksumStart);

/// One line for each result of that kind, "ops", "attention" or "choices": what it is, and its
/// checksum.
[[nodiscard]] std::string checksum_lines(const std::string& kind);
/// Of every case of op_list() on every device, for each dtype and size.
[[nodiscard]] std::string op_checksums();
/// The tokens that each device chooses from random logits.
[[nodiscard]] std::string choice_checksums();
/// Of every stored attention case on every kernel of the host's devices that serves it.
[[nodiscard]] std::string attention_checksums();

/// Fails the running test unless processes with 1 and with each of `threads` threads print the same
/// lines, more than `fewest_lines`.
void expect_same_bits(const std::string& kind, std::initializer_list<int> threads,
                      int fewest_lines);

}  // namespace portolan::testing_support
