// SPDX-License-Identifier: Apache-2.0
#include "apps/collective_work.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "apps/reference_error.hpp"
#include "core/ops.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

constexpr int kRoot = 0;
/// Compared at a time.
constexpr std::int64_t kErrorElements = std::int64_t{1} << 20;

std::vector<Tensor> zeros(int count, std::int64_t elements, DType dtype, Device device) {
  std::vector<Tensor> tensors;
  for (int i = 0; i < count; ++i) {
    tensors.push_back(Tensor::empty({elements}, dtype, device));
    ops::fill(tensors.back(), 0.0F);
  }
  return tensors;
}

bool starts_from_shares(Collective collective) {
  return collective == Collective::all_gather || collective == Collective::ring_shift;
}

}  // namespace

std::int64_t CollectiveWork::elements(const CollectiveCase& setting, int ranks) {
  const std::int64_t unit = ranks * static_cast<std::int64_t>(size_of(setting.dtype));
  return (setting.bytes + unit - 1) / unit * ranks;
}

CollectiveWork::CollectiveWork(const CollectiveCase& setting, Communicator& world, Device device)
    : setting_(setting),
      world_(world),
      partition_(Partition::even(elements(setting, world.size()), world.size())) {
  const Shape whole{partition_.extent()};
  // The ring's blocks are read where the transport has them; where they are copied to is private.
  full_ = setting.collective == Collective::ring_shift
              ? Tensor::empty(whole, setting.dtype, device)
              : world.allocate(whole, setting.dtype, device);
  if (starts_from_shares(setting.collective) || setting.collective == Collective::reduce_scatter) {
    shard_ = world.allocate({partition_.share(world.rank())}, setting.dtype, device);
  }
  ops::fill(full_, 0.0F);
  if (shard_.defined()) ops::fill(shard_, 0.0F);
}

const Tensor& CollectiveWork::result() const {
  return setting_.collective == Collective::reduce_scatter ? shard_ : full_;
}

Tensor CollectiveWork::share_of(int rank) const {
  return full_.slice(0, partition_.offset(rank), partition_.offset(rank) + partition_.share(rank));
}

void CollectiveWork::write(const Tensor& block, int rank, std::int64_t first) const {
  const RandomKey key = random_key(setting_.seed, fmt::format("rank {}", rank));
  ops::random_uniform(block.view({1, block.elements()}), key, {0, first, partition_.extent()}, 0.0F,
                      1.0F);
}

void CollectiveWork::write_inputs() const {
  const bool shares = starts_from_shares(setting_.collective);
  write(shares ? shard_ : full_, world_.rank(), shares ? partition_.offset(world_.rank()) : 0);
}

void CollectiveWork::clear_inputs() const {
  ops::fill(starts_from_shares(setting_.collective) ? shard_ : full_, 0.0F);
}

void CollectiveWork::run() const {
  switch (setting_.collective) {
    case Collective::all_reduce:
      return world_.all_reduce(full_);
    case Collective::all_gather:
      return world_.all_gather(shard_, full_, 0, partition_);
    case Collective::reduce_scatter:
      return world_.reduce_scatter(full_, shard_, 0, partition_);
    case Collective::broadcast:
      return world_.broadcast(full_, kRoot);
    case Collective::ring_shift:
      return run_ring();
    case Collective::barrier:
      return world_.barrier();
  }
}

void CollectiveWork::run_ring() const {
  const std::unique_ptr<RingRotation> rotation = world_.rotate(shard_);
  const auto copy_out = [&] { ops::copy(rotation->current(), share_of(rotation->source())); };
  for (int step = 1; step < world_.size(); ++step) {
    rotation->prefetch();
    if (step > 1) copy_out();
    rotation->advance();
  }
  copy_out();
}

double CollectiveWork::error() const {
  std::vector<int> all(static_cast<std::size_t>(world_.size()));
  std::iota(all.begin(), all.end(), 0);
  double largest = 0.0;
  switch (setting_.collective) {
    case Collective::all_reduce:
      largest = error_of(full_, 0, all);
      break;
    case Collective::reduce_scatter:
      largest = error_of(shard_, partition_.offset(world_.rank()), all);
      break;
    case Collective::broadcast:
      largest = error_of(full_, 0, {kRoot});
      break;
    case Collective::all_gather:
    case Collective::ring_shift:
      for (const int rank : all) {
        const bool own_of_ring =
            rank == world_.rank() && setting_.collective == Collective::ring_shift;
        if (own_of_ring) continue;  // it goes nowhere
        largest = std::max(largest, error_of(share_of(rank), partition_.offset(rank), {rank}));
      }
      break;
    case Collective::barrier:
      break;
  }
  return largest_value(world_, largest);
}

double CollectiveWork::error_of(const Tensor& block, std::int64_t first,
                                const std::vector<int>& ranks) const {
  double largest = 0.0;
  for (std::int64_t begin = 0; begin < block.elements(); begin += kErrorElements) {
    const std::int64_t end = std::min(begin + kErrorElements, block.elements());
    const Tensor inputs = Tensor::empty({end - begin}, setting_.dtype, block.device());
    std::vector<double> expected(static_cast<std::size_t>(end - begin));
    for (const int rank : ranks) {
      write(inputs, rank, first + begin);
      const std::vector<float> values = host_values(inputs);
      for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += values[i];
    }
    const std::vector<float> found = host_values(block.slice(0, begin, end));
    largest = std::max(largest, largest_difference(expected, found.data()));
  }
  return largest;
}

LocalWork::Pieces LocalWork::pieces(Collective collective, std::int64_t elements, int rank,
                                    int ranks) {
  const std::int64_t share = elements / ranks;
  switch (collective) {
    case Collective::all_reduce:  // a rank's share of every rank's tensor, and to all of them
      return {.sums = true, .elements = share, .sources = ranks};
    case Collective::reduce_scatter:
      return {.sums = true, .elements = share, .sources = ranks, .targets = 1};
    case Collective::all_gather:
      return {.elements = share, .sources = ranks, .targets = ranks};
    case Collective::ring_shift:
      return {.elements = share, .sources = ranks - 1, .targets = ranks - 1};
    case Collective::broadcast:
      return rank == kRoot ? Pieces{} : Pieces{.elements = elements, .sources = 1, .targets = 1};
    case Collective::barrier:
      break;
  }
  return {};
}

LocalWork::LocalWork(const Pieces& pieces, DType dtype, Device device)
    : sums_(pieces.sums),
      sources_(zeros(pieces.sources, pieces.elements, dtype, device)),
      targets_(zeros(pieces.targets, pieces.elements, dtype, device)) {}

void LocalWork::run() const {
  if (sums_) return ops::sum(sources_, targets_.empty() ? sources_ : targets_);
  for (std::size_t i = 0; i < sources_.size(); ++i) ops::copy(sources_[i], targets_[i]);
}

}  // namespace portolan
