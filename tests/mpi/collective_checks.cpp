// SPDX-License-Identifier: Apache-2.0
#include "tests/mpi/collective_checks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>

namespace portolan::checks {
namespace {

template <typename... Arguments>
void expect(bool condition, fmt::format_string<Arguments...> message, Arguments&&... arguments) {
  if (!condition) {
    throw std::runtime_error(fmt::format(message, std::forward<Arguments>(arguments)...));
  }
}

/// Pseudo-random in [-2, 2), different for each rank and index.
float value(std::int64_t rank, std::int64_t index) {
  auto x = static_cast<std::uint64_t>(rank * 1'000'003 + index + 1) * 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
  return static_cast<float>((x >> 40)) * 0x1p-22F - 2.0F;
}

float rounded(DType dtype, float x) {
  if (dtype == DType::bf16) return to_float(from_float<BFloat16>(x));
  if (dtype == DType::f16) return to_float(from_float<Float16>(x));
  return x;
}

float get(const Tensor& tensor, std::int64_t index) {
  if (tensor.dtype() == DType::bf16) return to_float(tensor.data<BFloat16>()[index]);
  if (tensor.dtype() == DType::f16) return to_float(tensor.data<Float16>()[index]);
  return tensor.data<float>()[index];
}

void set(const Tensor& tensor, std::int64_t index, float x) {
  if (tensor.dtype() == DType::bf16) {
    tensor.data<BFloat16>()[index] = from_float<BFloat16>(x);
  } else if (tensor.dtype() == DType::f16) {
    tensor.data<Float16>()[index] = from_float<Float16>(x);
  } else {
    tensor.data<float>()[index] = x;
  }
}

/// A tensor of the kind that the setting asks for, a few elements into its memory.
Tensor make(Communicator& communicator, const Setting& setting, const Shape& shape, DType dtype) {
  constexpr std::int64_t kShift = 3;
  if (setting.windows) {
    const Tensor memory = communicator.allocate({shape.elements() + kShift}, dtype, setting.device);
    return memory.slice(0, kShift, kShift + shape.elements()).view(shape);
  }
  auto memory = std::make_shared<std::vector<std::byte>>(
      static_cast<std::size_t>(shape.elements() + kShift) * size_of(dtype));
  std::byte* data = memory->data();
  const std::size_t bytes = memory->size();
  return Tensor(BlockReference::borrow(data, bytes, [memory] {}), 0, {shape.elements() + kShift},
                dtype, setting.device)
      .slice(0, kShift, kShift + shape.elements())
      .view(shape);
}

Tensor make_filled(Communicator& communicator, const Setting& setting, const Shape& shape,
                   DType dtype, int rank) {
  const Tensor tensor = make(communicator, setting, shape, dtype);
  for (std::int64_t i = 0; i < tensor.elements(); ++i) set(tensor, i, value(rank, i));
  return tensor;
}

/// Element `index` of the ranks' sum as the contract defines it, checked against f64.
float sum_at(const Setting& setting, DType dtype, std::int64_t index) {
  float total = 0.0F;
  double exact = 0.0;
  double magnitude = 0.0;
  for (std::size_t node = 0; node < setting.nodes.size(); ++node) {
    float node_sum = 0.0F;
    for (std::size_t i = 0; i < setting.nodes[node].size(); ++i) {
      const float x = rounded(dtype, value(setting.nodes[node][i], index));
      node_sum = i == 0 ? x : node_sum + x;
      exact += static_cast<double>(x);
      magnitude += std::abs(static_cast<double>(x));
    }
    node_sum = rounded(dtype, node_sum);
    total = node == 0 ? node_sum : total + node_sum;
  }
  total = rounded(dtype, total);
  // One rounding per node, one at the end; additions in f32 besides.
  const double unit = dtype == DType::f32 ? 0x1p-24 : dtype == DType::f16 ? 0x1p-11 : 0x1p-8;
  const double roundings = static_cast<double>(setting.nodes.size()) + 1.0;
  const double bound = (unit * roundings + 0x1p-20) * magnitude;
  expect(std::abs(static_cast<double>(total) - exact) <= bound, "sum {} is {} away from {}", total,
         static_cast<double>(total) - exact, exact);
  return total;
}

std::uint64_t hash_of(const Tensor& tensor) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (std::size_t i = 0; i < tensor.bytes(); ++i) {
    hash = (hash ^ std::to_integer<std::uint64_t>(tensor.raw()[i])) * 0x100000001B3u;
  }
  return hash;
}

/// That all ranks hold the same bytes.
void expect_same_everywhere(Communicator& communicator, const Tensor& tensor, Device device) {
  std::int64_t own = static_cast<std::int64_t>(hash_of(tensor));
  std::vector<std::int64_t> all(static_cast<std::size_t>(communicator.size()));
  communicator.all_gather(Tensor::borrow(&own, {1}, DType::i64, device),
                          Tensor::borrow(all.data(), {communicator.size()}, DType::i64, device), 0,
                          Partition::even(communicator.size(), communicator.size()));
  for (const std::int64_t hash : all) expect(hash == own, "ranks hold different bits");
}

}  // namespace

void all_reduce(Communicator& communicator, const Setting& setting, DType dtype,
                std::int64_t elements) {
  const Tensor x = make_filled(communicator, setting, {elements}, dtype, communicator.rank());
  communicator.all_reduce(x);
  for (std::int64_t i = 0; i < elements; ++i) {
    const float expected = sum_at(setting, dtype, i);
    expect(get(x, i) == expected, "all_reduce of {} x {}: element {} is {}, not {}", elements,
           name_of(dtype), i, get(x, i), expected);
  }
  expect_same_everywhere(communicator, x, setting.device);
}

void reduce_scatter(Communicator& communicator, const Setting& setting, DType dtype,
                    std::int64_t outer, const Partition& partition, std::int64_t inner) {
  const int rank = communicator.rank();
  const Shape shape{outer, partition.extent(), inner};
  const Tensor full = make_filled(communicator, setting, shape, dtype, rank);
  const Tensor shard = make(communicator, setting, {outer, partition.share(rank), inner}, dtype);
  const std::uint64_t before = hash_of(full);
  communicator.reduce_scatter(full, shard, 1, partition);
  expect(hash_of(full) == before, "reduce_scatter of {} changed its input", shape.to_string());
  for (std::int64_t i = 0; i < shard.elements(); ++i) {
    const std::int64_t o = i / (partition.share(rank) * inner);
    const std::int64_t index = (o * partition.extent() + partition.offset(rank)) * inner +
                               i % (partition.share(rank) * inner);
    const float expected = sum_at(setting, dtype, index);
    expect(get(shard, i) == expected,
           "reduce_scatter of {} {}: element {} of the shard is {}, not {}", shape.to_string(),
           name_of(dtype), i, get(shard, i), expected);
  }
}

void all_gather(Communicator& communicator, const Setting& setting, DType dtype, std::int64_t outer,
                const Partition& partition, std::int64_t inner) {
  const int rank = communicator.rank();
  const Shape shape{outer, partition.extent(), inner};
  for (const bool other_kind : {false, true}) {
    Setting shard_setting = setting;
    shard_setting.windows = setting.windows != other_kind;
    const Tensor shard = make_filled(communicator, shard_setting,
                                     {outer, partition.share(rank), inner}, dtype, rank);
    const Tensor full = make(communicator, setting, shape, dtype);
    communicator.all_gather(shard, full, 1, partition);
    for (std::int64_t i = 0; i < shard.elements(); ++i) set(shard, i, -9.0F);  // may be reused now
    for (int part = 0; part < communicator.size(); ++part) {
      const std::int64_t row = partition.share(part) * inner;
      for (std::int64_t i = 0; i < outer * row; ++i) {
        const std::int64_t index =
            (i / std::max<std::int64_t>(row, 1) * partition.extent() + partition.offset(part)) *
                inner +
            i % std::max<std::int64_t>(row, 1);
        const float expected = rounded(dtype, value(part, i));
        if (get(full, index) == expected) continue;  // most are, and texts take time
        expect(false, "all_gather of {} {}: element {} is {}, not {}", shape.to_string(),
               name_of(dtype), index, get(full, index), expected);
      }
    }
  }
}

void broadcast(Communicator& communicator, const Setting& setting, DType dtype,
               std::int64_t elements) {
  for (int root = 0; root < communicator.size(); ++root) {
    const Tensor x = make_filled(communicator, setting, {elements}, dtype, communicator.rank());
    communicator.broadcast(x, root);
    for (std::int64_t i = 0; i < elements; ++i) {
      const float expected = rounded(dtype, value(root, i));
      expect(get(x, i) == expected, "broadcast of {} from {}: element {} is {}, not {}", elements,
             root, i, get(x, i), expected);
    }
  }
}

void rotation(Communicator& communicator, const Setting& setting, DType dtype,
              std::int64_t elements, int advances) {
  const int rank = communicator.rank();
  const int size = communicator.size();
  for (const bool prefetch : {false, true}) {
    const Tensor own = make_filled(communicator, setting, {elements}, dtype, rank);
    {
      const std::unique_ptr<RingRotation> rotation = communicator.rotate(own);
      for (int step = 0; step <= advances; ++step) {
        if (step > 0) rotation->advance();
        if (prefetch && step < advances) {
          rotation->prefetch();
          rotation->prefetch();  // the second one does nothing
        }
        const int source = ((rank - step) % size + size) % size;
        expect(rotation->source() == source, "step {} of a rotation holds the block of {}, not {}",
               step, rotation->source(), source);
        for (std::int64_t i = 0; i < elements; ++i) {
          const float expected = rounded(dtype, value(source, i));
          expect(get(rotation->current(), i) == expected,
                 "rotation of {}: element {} of the block of {} is {}, not {}", elements, i, source,
                 get(rotation->current(), i), expected);
        }
      }
    }
    for (std::int64_t i = 0; i < elements; ++i) set(own, i, -9.0F);  // its peers are done with it
  }
}

void barrier(Communicator& communicator) {
  // The last to come is another one each time. Clocks of one machine agree.
  for (int late = 0; late < communicator.size(); ++late) {
    using Clock = std::chrono::steady_clock;
    if (communicator.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::int64_t times[2] = {Clock::now().time_since_epoch().count(), 0};
    communicator.barrier();
    times[1] = Clock::now().time_since_epoch().count();
    std::vector<std::int64_t> all(2 * static_cast<std::size_t>(communicator.size()));
    communicator.all_gather(
        Tensor::borrow(times, {1, 2}, DType::i64, Device{}),
        Tensor::borrow(all.data(), {communicator.size(), 2}, DType::i64, Device{}), 0,
        Partition::even(communicator.size(), communicator.size()));
    std::int64_t last_entry = all[0];
    for (std::size_t i = 0; i < all.size(); i += 2) last_entry = std::max(last_entry, all[i]);
    expect(times[1] >= last_entry, "left a barrier {} ns before all had entered",
           last_entry - times[1]);
  }
}

void counters(Communicator& communicator, const Setting& setting) {
  const std::int64_t size = communicator.size();
  const int rank = communicator.rank();
  const auto counted = [&](Collective collective) {
    return communicator.counters()[static_cast<std::size_t>(collective)];
  };
  const auto expect_counters = [&](Collective collective, std::int64_t calls, std::int64_t bytes) {
    const CollectiveCounters found = counted(collective);
    expect(found.calls == calls && found.bytes == bytes,
           "{} counted {} calls and {} bytes, not {} and {}", name_of(collective), found.calls,
           found.bytes, calls, bytes);
    expect(calls == 0 || found.seconds > 0.0, "{} took no time", name_of(collective));
  };
  communicator.reset_counters();
  for (int i = 0; i < kCollectiveCount; ++i) expect_counters(static_cast<Collective>(i), 0, 0);

  const Partition partition = Partition::even(10, communicator.size());
  const Shape full_shape{2, 10, 3};
  const Tensor full = make_filled(communicator, setting, full_shape, DType::f32, rank);
  const Tensor shard =
      make_filled(communicator, setting, {2, partition.share(rank), 3}, DType::f32, rank);
  const auto full_bytes = static_cast<std::int64_t>(full.bytes());
  const auto shard_bytes = static_cast<std::int64_t>(shard.bytes());
  const std::int64_t some = size > 1 ? 1 : 0;  // on one rank nothing is counted

  communicator.all_reduce(full);
  communicator.all_reduce(full);
  const std::int64_t share = Partition::even(60, communicator.size()).share(rank) * 4;
  expect_counters(Collective::all_reduce, 2 * some, 2 * 2 * (size - 1) * share);
  communicator.all_gather(shard, full, 1, partition);
  expect_counters(Collective::all_gather, some, full_bytes - shard_bytes);
  communicator.reduce_scatter(full, shard, 1, partition);
  expect_counters(Collective::reduce_scatter, some, (size - 1) * shard_bytes);
  communicator.broadcast(full, communicator.size() - 1);
  expect_counters(Collective::broadcast, some, rank == size - 1 ? 0 : full_bytes);
  communicator.barrier();
  expect_counters(Collective::barrier, some, 0);
  {
    const std::unique_ptr<RingRotation> rotation = communicator.rotate(full);
    for (int step = 1; step < size; ++step) rotation->advance();
  }
  expect_counters(Collective::ring_shift, size - 1, (size - 1) * full_bytes);
  const Tensor empty = make(communicator, setting, {0}, DType::f32);
  communicator.all_reduce(empty);
  expect_counters(Collective::all_reduce, 3 * some, 2 * 2 * (size - 1) * share);

  // Summed over ranks the bytes are the documented closed forms, whatever the shares.
  const CollectiveCounters gather = counted(Collective::all_gather);
  std::vector<std::int64_t> own{counted(Collective::all_reduce).bytes, gather.bytes,
                                counted(Collective::reduce_scatter).bytes,
                                counted(Collective::broadcast).bytes};
  std::vector<std::int64_t> all(4 * static_cast<std::size_t>(size));
  communicator.all_gather(Tensor::borrow(own.data(), {1, 4}, DType::i64, Device{}),
                          Tensor::borrow(all.data(), {size, 4}, DType::i64, Device{}), 0,
                          Partition::even(size, communicator.size()));
  std::vector<std::int64_t> sums(4, 0);
  for (std::size_t i = 0; i < all.size(); ++i) sums[i % 4] += all[i];
  const std::int64_t once = full_bytes * (size - 1);
  expect(sums == std::vector<std::int64_t>({4 * once, once, once, once}),
         "bytes summed over ranks are {}, {}, {}, {}; n (p-1) is {}", sums[0], sums[1], sums[2],
         sums[3], once);
}

void split(Communicator& communicator, const Setting& setting) {
  const int rank = communicator.rank();
  const int size = communicator.size();
  // Pairs of neighbours, in reversed order.
  const std::unique_ptr<Communicator> pair = communicator.split(rank / 2, -rank);
  const int pair_size = std::min(2, size - rank / 2 * 2);
  expect(pair->size() == pair_size && pair->rank() == pair_size - 1 - rank % 2,
         "rank {} of {} became {} of {} in its pair", rank, size, pair->rank(), pair->size());
  const std::unique_ptr<Communicator> alone = communicator.split(rank, 0);
  expect(alone->size() == 1, "a rank of its own color has {} peers", alone->size() - 1);
  const std::unique_ptr<Communicator> reversed = communicator.split(7, size - rank);
  expect(reversed->size() == size && reversed->rank() == size - 1 - rank,
         "reversing {} ranks made {} of {} out of {}", size, reversed->rank(), reversed->size(),
         rank);
  for (int round = 0; round < 3; ++round) {
    Tensor x = make(*pair, setting, {5}, DType::f32);
    for (std::int64_t i = 0; i < 5; ++i) set(x, i, static_cast<float>(rank + 1));
    pair->all_reduce(x);
    const int first = rank / 2 * 2;
    const int expected = pair_size == 2 ? 2 * first + 3 : first + 1;
    expect(get(x, 4) == static_cast<float>(expected), "a pair's sum is {}, not {}", get(x, 4),
           expected);
    // The pairs work at their own pace; the reversed communicator brings them together.
    for (int extra = 0; extra < rank / 2; ++extra) pair->barrier();
    x = make(*reversed, setting, {5}, DType::f32);
    for (std::int64_t i = 0; i < 5; ++i) set(x, i, static_cast<float>(rank));
    reversed->broadcast(x, 0);
    expect(get(x, 0) == static_cast<float>(size - 1), "the reversed root is {}", get(x, 0));
  }
}

void everything(Communicator& communicator, const Setting& setting) {
  const int size = communicator.size();
  const std::vector<DType> dtypes{DType::f32, DType::bf16, DType::f16};
  // Around the units of slices and the sizes at which transports change their way.
  for (const std::int64_t elements : {0, 1, 2, 3, 63, 64, 65, 1000, 4099, 70'001, 300'007}) {
    for (const DType dtype : dtypes) {
      all_reduce(communicator, setting, dtype, elements);
      if (elements > 70'001 && dtype != DType::bf16) continue;
      broadcast(communicator, setting, dtype, elements);
      rotation(communicator, setting, dtype, std::min<std::int64_t>(elements, 20'000),
               elements == 65 ? 2 * size + 1 : size - 1);
    }
  }
  std::vector<Partition> partitions{Partition::even(12, size), Partition::even(size + 1, size),
                                    Partition::even(1, size), Partition::even(0, size)};
  std::vector<std::int64_t> skewed(static_cast<std::size_t>(size), 0);
  skewed.back() = 5;
  partitions.emplace_back(skewed);
  skewed.front() = 2;
  partitions.emplace_back(skewed);
  struct Extents {
    std::int64_t outer;
    std::int64_t inner;
  };
  for (const Partition& partition : partitions) {
    for (const auto& [outer, inner] :
         {Extents{1, 1}, {3, 5}, {2, 4099}, {1, 30'011}, {0, 3}, {300, 33}}) {
      for (const DType dtype : dtypes) {
        if (inner > 5'000 && dtype == DType::f16) continue;
        all_gather(communicator, setting, dtype, outer, partition, inner);
        reduce_scatter(communicator, setting, dtype, outer, partition, inner);
      }
    }
  }
  barrier(communicator);
  split(communicator, setting);
  counters(communicator, setting);
}

}  // namespace portolan::checks
