// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "parallel/communicator.hpp"

namespace portolan {

/// Collectives between GPUs by NCCL, one GPU per rank; those of host tensors and barriers go over
/// `host`, which also brings the ranks together. Collective. The device's backend is registered,
/// and outlives the communicator. No header of CUDA or NCCL is needed to use it. Throws
/// CommunicationError.
///
/// Collectives run on a stream of their own, behind what Queue::compute held when they were called;
/// what comes after in Queue::compute waits for them, the host does not: the seconds that are
/// counted are those of the host's call. Blocks of a rotation travel while Queue::compute works.
///
/// Sums are NCCL's: all ranks hold the same bits of an all-reduce, but the order of the terms is
/// that of NCCL's algorithm, and partial sums of bf16 and f16 are rounded to these on their way,
/// where other transports add in f32 and in rank order.
///
/// A collective that has not ended by its deadline cannot be called back from the GPU: `lost` is
/// called from another thread and has to end the job.
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_communicator(
    std::unique_ptr<Communicator> host, Device device, std::chrono::milliseconds deadline,
    std::function<void(const std::string& reason)> lost);

/// "NCCL 2.28.9", of the library that runs.
[[nodiscard]] std::string nccl_version();

}  // namespace portolan
