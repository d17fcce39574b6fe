// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/nccl/nccl_collectives.hpp"

#include <nccl.h>

#include <utility>

#include "core/error.hpp"
#include "parallel/device_communicator.hpp"
#include "parallel/transport/nccl/nccl_group.hpp"
#include "parallel/transport/nccl/nccl_status.hpp"

namespace portolan {
namespace {

ncclDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    default:
      throw UsageError(
          fmt::format("sums over ranks are of f32, bf16 or f16, found {}", name_of(dtype)));
  }
}

/// Calls call(row) for each row until one fails.
template <typename Call>
ncclResult_t for_each_row(std::int64_t rows, const Call& call) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const ncclResult_t status = call(row);
    if (status != ncclSuccess) return status;
  }
  return ncclSuccess;
}

/// The next block is received beside the current one, which is sent on.
class NcclRotation final : public RingRotation {
 public:
  NcclRotation(NcclGroup& group, const Tensor& own)
      : group_(group), current_(own), source_(group.rank()) {}
  ~NcclRotation() override {
    // Memory goes back in the order of Queue::compute.
    if (under_way_) wait();
  }

  [[nodiscard]] int source() const override { return source_; }
  [[nodiscard]] const Tensor& current() const override { return current_; }

  void prefetch() override {
    if (under_way_) return;
    if (!next_.defined()) {
      next_ = Tensor::empty(current_.shape(), current_.dtype(), current_.device());
    }
    const int size = group_.size();
    const int rank = group_.rank();
    end_ =
        group_.start(name_of(Collective::ring_shift), [&](ncclComm_t group, cudaStream_t stream) {
          const ncclResult_t sent = ncclSend(current_.raw(), current_.bytes(), ncclUint8,
                                             (rank + 1) % size, group, stream);
          if (sent != ncclSuccess) return sent;
          return ncclRecv(next_.raw(), next_.bytes(), ncclUint8, (rank + size - 1) % size, group,
                          stream);
        });
    under_way_ = true;
  }

  void advance() override {
    prefetch();
    wait();
    // The block just used receives the one after next, unless it is the caller's own.
    std::swap(current_, next_);
    if (!advanced_) next_ = Tensor();
    advanced_ = true;
    source_ = (source_ + group_.size() - 1) % group_.size();
  }

 private:
  void wait() {
    backend_of(current_.device()).wait(Queue::compute, end_);
    under_way_ = false;
  }

  NcclGroup& group_;
  Tensor current_;
  Tensor next_;
  int source_;
  bool advanced_ = false;
  bool under_way_ = false;
  Event end_;
};

class NcclCollectives final : public DeviceCollectives {
 public:
  NcclCollectives(Communicator& host, Device device, NcclPatience patience)
      : group_(host, device, std::move(patience)) {}

  [[nodiscard]] std::string description() const override { return nccl_version(); }

  void all_reduce(const Tensor& x) override {
    group_.run(name_of(Collective::all_reduce), [&](ncclComm_t group, cudaStream_t stream) {
      return ncclAllReduce(x.raw(), x.raw(), static_cast<std::size_t>(x.elements()),
                           data_type(x.dtype()), ncclSum, group, stream);
    });
  }
  void all_gather(const Tensor& own, const Tensor& full) override {
    const std::size_t block = static_cast<std::size_t>(own.dim(1)) * size_of(own.dtype());
    const auto full_row = static_cast<std::int64_t>(block) * group_.size();
    group_.run(name_of(Collective::all_gather), [&](ncclComm_t group, cudaStream_t stream) {
      return for_each_row(own.dim(0), [&](std::int64_t row) {
        return ncclAllGather(own.raw() + row * static_cast<std::int64_t>(block),
                             full.raw() + row * full_row, block, ncclUint8, group, stream);
      });
    });
  }
  void reduce_scatter(const Tensor& full, const Tensor& own) override {
    const std::int64_t elements = own.dim(1);
    const std::int64_t block = elements * static_cast<std::int64_t>(size_of(own.dtype()));
    group_.run(name_of(Collective::reduce_scatter), [&](ncclComm_t group, cudaStream_t stream) {
      return for_each_row(own.dim(0), [&](std::int64_t row) {
        return ncclReduceScatter(full.raw() + row * block * group_.size(), own.raw() + row * block,
                                 static_cast<std::size_t>(elements), data_type(own.dtype()),
                                 ncclSum, group, stream);
      });
    });
  }
  void broadcast(const Tensor& x, int root) override {
    group_.run(name_of(Collective::broadcast), [&](ncclComm_t group, cudaStream_t stream) {
      return ncclBroadcast(x.raw(), x.raw(), x.bytes(), ncclUint8, root, group, stream);
    });
  }
  [[nodiscard]] std::unique_ptr<RingRotation> rotate(const Tensor& own) override {
    return std::make_unique<NcclRotation>(group_, own);
  }
  [[nodiscard]] std::unique_ptr<DeviceCollectives> of_part(Communicator& host) override {
    return std::make_unique<NcclCollectives>(host, group_.device(), group_.patience());
  }

 private:
  NcclGroup group_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(
    std::unique_ptr<Communicator> host, Device device, std::chrono::milliseconds deadline,
    std::function<void(const std::string& reason)> lost) {
  auto collectives =
      std::make_unique<NcclCollectives>(*host, device, NcclPatience{deadline, std::move(lost)});
  return make_device_communicator(std::move(host), std::move(collectives), device);
}

std::string nccl_version() {
  int version = 0;
  check_nccl(ncclGetVersion(&version), nullptr, "asking for NCCL's version");
  return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

}  // namespace portolan
