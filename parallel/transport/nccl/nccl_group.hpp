// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string_view>

#include "core/backend.hpp"
#include "parallel/collective_watch.hpp"
#include "parallel/communicator.hpp"

namespace portolan {

/// How long ranks wait for each other, and what ends the job when they have waited that long.
struct NcclPatience {
  std::chrono::milliseconds deadline{60'000};
  CollectiveWatch::Lost lost;
};

/// NCCL's communicator of some ranks with a GPU each, and the stream that its collectives run on.
class NcclGroup {
 public:
  /// Collective; `host` joins the ranks and brings them the group's identity. Throws
  /// CommunicationError.
  NcclGroup(Communicator& host, Device device, NcclPatience patience);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  [[nodiscard]] int rank() const noexcept { return rank_; }
  [[nodiscard]] int size() const noexcept { return size_; }
  [[nodiscard]] Device device() const noexcept { return device_; }
  [[nodiscard]] const NcclPatience& patience() const noexcept { return patience_; }

  /// NCCL's calls of one collective, which enqueue and return.
  using Calls = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;

  /// Enqueues the calls, as one, behind all that is in the device's Queue::compute by now. Returns
  /// the point where they end.
  [[nodiscard]] Event start(std::string_view operation, const Calls& calls);
  /// The same, and Queue::compute goes on only then.
  void run(std::string_view operation, const Calls& calls);

 private:
  struct DestroyStream {
    void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
  };

  /// While it lives, the host is inside a call of NCCL that may wait for peers.
  class HostCall {
   public:
    HostCall(CollectiveWatch& watch, std::string_view operation);
    ~HostCall() { ended_->store(true); }
    HostCall(const HostCall&) = delete;
    HostCall& operator=(const HostCall&) = delete;

   private:
    std::shared_ptr<std::atomic<bool>> ended_ = std::make_shared<std::atomic<bool>>(false);
  };

  int rank_;
  int size_;
  Device device_;
  NcclPatience patience_;
  int exceptions_at_start_;
  std::unique_ptr<CUstream_st, DestroyStream> stream_;
  ncclComm_t group_ = nullptr;
  CollectiveWatch watch_;
};

}  // namespace portolan
