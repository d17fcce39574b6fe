// SPDX-License-Identifier: Apache-2.0
#include "tests/mpi/host_blocks.hpp"

#include <cstring>
#include <stdexcept>

namespace portolan {
namespace {

class HostBlocks final : public DeviceCollectives {
 public:
  explicit HostBlocks(Communicator& peers) : peers_(peers) {}

  [[nodiscard]] std::string description() const override { return "blocks"; }
  void all_reduce(const Tensor& x) override {
    require_dense(x);
    peers_.all_reduce(x);
  }
  void all_gather(const Tensor& own, const Tensor& full) override {
    require_blocks(own, full);
    peers_.all_gather(copied(own).view({own.dim(0), 1, own.dim(1)}), full, 1, blocks());
  }
  void reduce_scatter(const Tensor& full, const Tensor& own) override {
    require_blocks(own, full);
    const Tensor sum = copied(own);  // own may be a part of full, which peers read
    peers_.reduce_scatter(full, sum.view({own.dim(0), 1, own.dim(1)}), 1, blocks());
    peers_.barrier();
    std::memcpy(own.raw(), sum.raw(), own.bytes());
  }
  void broadcast(const Tensor& x, int root) override {
    require_dense(x);
    peers_.broadcast(x, root);
  }
  [[nodiscard]] std::unique_ptr<RingRotation> rotate(const Tensor& own) override {
    require_dense(own);
    return peers_.rotate(own);
  }
  [[nodiscard]] std::unique_ptr<DeviceCollectives> of_part(Communicator& host) override {
    return make_host_blocks(host);
  }

 private:
  [[nodiscard]] Partition blocks() const { return Partition::even(peers_.size(), peers_.size()); }

  static Tensor copied(const Tensor& tensor) {
    const Tensor copy = allocate_private(tensor.shape(), tensor.dtype(), tensor.device());
    std::memcpy(copy.raw(), tensor.raw(), tensor.bytes());
    return copy;
  }
  static void require_dense(const Tensor& tensor) {
    if (!tensor.is_contiguous() || tensor.elements() == 0) {
      throw std::runtime_error("a device's collective got a tensor that is strided or empty");
    }
  }
  void require_blocks(const Tensor& own, const Tensor& full) const {
    require_dense(own);
    require_dense(full);
    if (full.shape() != Shape{own.dim(0), peers_.size(), own.dim(1)}) {
      throw std::runtime_error("blocks " + own.shape().to_string() + " do not make up " +
                               full.shape().to_string());
    }
  }

  Communicator& peers_;
};

}  // namespace

std::unique_ptr<DeviceCollectives> make_host_blocks(Communicator& peers) {
  return std::make_unique<HostBlocks>(peers);
}

}  // namespace portolan
