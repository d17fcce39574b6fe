// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "core/ops.hpp"
#include "parallel/communicator.hpp"

namespace portolan {
namespace {

/// Gathering and scattering are copies; the checks of the base class have the rest end before here.
class SingleCommunicator final : public Communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 1; }
  [[nodiscard]] std::string description() const override { return "single"; }
  [[nodiscard]] Tensor allocate(const Shape& shape, DType dtype, Device device) override {
    return allocate_private(shape, dtype, device);
  }
  [[nodiscard]] std::unique_ptr<Communicator> split(int /*color*/, int /*key*/) override {
    return make_single_communicator();
  }

 protected:
  [[nodiscard]] bool serves(Device /*device*/) const override { return true; }
  void do_all_reduce(const Tensor& /*x*/) override {}
  void do_all_gather(const Tensor& shard, const Tensor& full, const PartitionedLayout& /*layout*/,
                     const Partition& /*partition*/) override {
    copy(shard, full);
  }
  void do_reduce_scatter(const Tensor& full, const Tensor& shard,
                         const PartitionedLayout& /*layout*/,
                         const Partition& /*partition*/) override {
    copy(full, shard);
  }
  void do_broadcast(const Tensor& /*x*/, int /*root*/) override {}
  void do_barrier() override {}
  std::unique_ptr<RingRotation> do_rotate(const Tensor& own) override { return rotate(own); }

 private:
  static void copy(const Tensor& from, const Tensor& to) {
    if (from.elements() == 0 || from.raw() == to.raw()) return;
    if (is_host(from.device())) {
      std::memcpy(to.raw(), from.raw(), from.bytes());
    } else {
      ops::copy(from, to);
    }
  }
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace portolan
