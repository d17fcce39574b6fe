// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.hpp"

namespace portolan {

/// Collectives of equal blocks between the devices of several ranks, as libraries for one kind of
/// device offer them. Tensors are on that device, contiguous and not empty. Operations are enqueued
/// in order with the device's Queue::compute, before and behind, and need not be done when a call
/// returns. Throws CommunicationError.
class DeviceCollectives {
 public:
  virtual ~DeviceCollectives() = default;

  [[nodiscard]] virtual std::string description() const = 0;
  /// x = the sum of the ranks' x; the same bits on all ranks.
  virtual void all_reduce(const Tensor& x) = 0;
  /// full[:, r, :] = rank r's own. own [rows, block], full [rows, ranks, block]; own may be
  /// full[0, rank] where there is one row.
  virtual void all_gather(const Tensor& own, const Tensor& full) = 0;
  /// own = the sum of the ranks' full[:, rank, :]. Shapes as above; `full` stays as it was, but own
  /// may be full[0, rank] where there is one row.
  virtual void reduce_scatter(const Tensor& full, const Tensor& own) = 0;
  virtual void broadcast(const Tensor& x, int root) = 0;
  /// As Communicator::rotate.
  [[nodiscard]] virtual std::unique_ptr<RingRotation> rotate(const Tensor& own) = 0;
  /// The collectives of some of the ranks, which `host` joins. Collective for these.
  [[nodiscard]] virtual std::unique_ptr<DeviceCollectives> of_part(Communicator& host) = 0;
};

/// A communicator that has the collectives of `device` done there, and all others, those of host
/// tensors and barriers, by `host`. Blocks that are uneven or too scattered for the device's
/// collectives are brought into equal ones by copies on the device.
[[nodiscard]] std::unique_ptr<Communicator> make_device_communicator(
    std::unique_ptr<Communicator> host, std::unique_ptr<DeviceCollectives> collectives,
    Device device);

}  // namespace portolan
