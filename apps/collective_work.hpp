// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/random.hpp"
#include "parallel/communicator.hpp"

namespace portolan {

/// One collective over a tensor of `bytes`, of which each rank has, or gets, an even share.
struct CollectiveCase {
  Collective collective = Collective::all_reduce;
  DType dtype = DType::f32;
  std::int64_t bytes = 0;  ///< of the whole tensor
  std::uint64_t seed = 0;  ///< of the inputs
};

/// The tensors of one collective over seeded inputs, and the call. What a model's ranks exchange
/// lies in the communicator's own memory, and so do these. Every function is collective.
class CollectiveWork {
 public:
  /// Elements of the whole tensor: as many as hold setting.bytes, and a multiple of the ranks.
  [[nodiscard]] static std::int64_t elements(const CollectiveCase& setting, int ranks);

  /// `setting` is not a barrier. Throws OutOfMemoryError, perhaps on some ranks alone.
  CollectiveWork(const CollectiveCase& setting, Communicator& world, Device device);

  /// Numbers of each rank's own, uniform on [-1, 1).
  void write_inputs() const;
  /// Zeros, which repeated sums leave as they are.
  void clear_inputs() const;
  /// A ring's blocks are copied out as they come, as attention would read them.
  void run() const;
  /// Largest |difference| of any rank's result from the inputs, added up in f64.
  [[nodiscard]] double error() const;

  /// This rank's result, of the whole tensor or of its share.
  [[nodiscard]] const Tensor& result() const;

 private:
  [[nodiscard]] Tensor share_of(int rank) const;
  void run_ring() const;
  /// `block` begins at element `first` of the whole tensor; as rank `rank` holds it at the start.
  void write(const Tensor& block, int rank, std::int64_t first) const;
  /// Of a block that is to be the sum over those ranks.
  [[nodiscard]] double error_of(const Tensor& block, std::int64_t first,
                                const std::vector<int>& ranks) const;

  CollectiveCase setting_;
  Communicator& world_;
  Partition partition_;
  Tensor full_;
  Tensor shard_;
};

/// The sums and copies that a rank has to make where the blocks of other ranks are read and written
/// in place, in memory of its own: a collective without other ranks.
class LocalWork {
 public:
  /// Tensors of so many elements each. A sum of all sources goes to each target, or to each source
  /// if there is none; a copy of each source to its target.
  struct Pieces {
    bool sums = false;
    std::int64_t elements = 0;
    int sources = 0;
    int targets = 0;
    friend bool operator==(const Pieces&, const Pieces&) = default;
  };
  /// `elements` of the whole tensor, a multiple of the ranks. Rank 0 broadcasts.
  [[nodiscard]] static Pieces pieces(Collective collective, std::int64_t elements, int rank,
                                     int ranks);

  LocalWork(const Pieces& pieces, DType dtype, Device device);
  void run() const;

 private:
  bool sums_;
  std::vector<Tensor> sources_;
  std::vector<Tensor> targets_;
};

}  // namespace portolan
