// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/cuda/device_function.hpp"
#include "attention/cuda/sm90_buffers.hpp"
#include "attention/cuda/sm90_entry.hpp"
#include "attention/cuda/sm90_layout.hpp"
#include "attention/cuda/sm90_softmax.hpp"
#include "attention/cuda/sm90_tile_products.hpp"
#include "attention/cuda/sm90_tiles.hpp"

/// Forward pass: flash attention as FlashAttention-3 (Shah et al. 2024) arranges it for this
/// hardware. As many blocks as multiprocessors take tiles from a counter. One thread of the first
/// warpgroup, the producer, has the copy engine fill shared memory; each other warpgroup, a
/// consumer, owns 64 query rows. Per key tile a consumer starts scores = Q K^T of this tile and
/// out += P V of the last one, and takes the softmax of the scores while the latter runs. Consumers
/// take turns in starting products, so that one's softmax meets another's products.
///
/// The code is written over a `Lane`, one thread's view of its GPU: HopperLane in kernels, an
/// emulation in tests on machines without such a GPU.
namespace portolan::cuda::sm90 {

/// Sizes for head_dim up to 64 or 128.
template <int kHeadDim>
struct ForwardSizes;
/// Registers of each consumer thread: out 64, scores 64, P 32, and state: 232 with two consumers.
/// Shared memory: Q and out 32 KiB each, K and V two stages of 32 KiB each: 192 KiB of the 227 that
/// a block may have. Longer key tiles would take the place of the separate `out`, which lets the
/// next tile's Q arrive during the epilogue.
template <>
struct ForwardSizes<128> {
  static constexpr int kConsumers = 2;
  static constexpr int kKeys = 128;
  static constexpr int kStages = 2;
  // 128 * 40 + 256 * 232 = 384 * 168: what the block is started with.
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = 232;
};
/// Out takes 32 registers: three consumers fit, with 160 each. Shared memory: Q and out 24 KiB
/// each, K and V two stages of 16 KiB each: 112 KiB.
template <>
struct ForwardSizes<64> {
  static constexpr int kConsumers = 3;
  static constexpr int kKeys = 128;
  static constexpr int kStages = 2;
  // 128 * 32 + 384 * 160 = 512 * 128.
  static constexpr int kProducerRegisters = 32;
  static constexpr int kConsumerRegisters = 160;
};

template <typename TensorMap>
struct ForwardParameters {
  enum Tensor : int { kQ, kK, kV, kOut, kTensors };
  Problem<TensorMap> problem;
  TileOrder order;
  int* next_tile = nullptr;  ///< starts at 0
  float* log_sum_exp = nullptr;
  FloatResult out;
};

/// What one block does.
template <typename Lane, AttentionElement kElement, int kHeadDim>
class ForwardBlock : public ForwardSizes<kHeadDim> {
 public:
  using Sizes = ForwardSizes<kHeadDim>;
  using Sizes::kConsumers;
  using Sizes::kKeys;
  using Sizes::kStages;
  using Parameters = ForwardParameters<typename Lane::TensorMap>;

  static constexpr int kQueries = kConsumers * kWarpgroupRows;
  static constexpr int kThreads = (kConsumers + 1) * kWarpgroupThreads;

  struct alignas(kPatternBytes) Shared {
    std::byte q[tile_bytes(kQueries, kHeadDim)];
    std::byte k[kStages][tile_bytes(kKeys, kHeadDim)];
    std::byte v[kStages][tile_bytes(kKeys, kHeadDim)];
    std::byte out[kConsumers][tile_bytes(kWarpgroupRows, kHeadDim)];
    /// "full": the bytes have arrived; "empty": every warp of the consumers is done with them.
    std::uint64_t q_full, q_empty;
    std::uint64_t k_full[kStages], k_empty[kStages];
    std::uint64_t v_full[kStages], v_empty[kStages];
    int tile;  ///< that q belongs to, guarded as q is; negative: there are no more
  };

  PORTOLAN_DEVICE ForwardBlock(const Lane& lane, const Parameters& parameters, Shared& shared)
      : lane_(lane), parameters_(parameters), shared_(shared) {}

  PORTOLAN_DEVICE void run() const {
    if (lane_.thread() == 0) {
      init_barriers();
    }
    lane_.block_barrier();
    const int warpgroup = lane_.warp_uniform(lane_.thread() / kWarpgroupThreads);
    if (warpgroup == 0) {
      lane_.template shrink_registers<Sizes::kProducerRegisters>();
      if (lane_.thread() == 0) {
        produce();
      }
    } else {
      lane_.template grow_registers<Sizes::kConsumerRegisters>();
      consume(warpgroup - 1);
    }
  }

 private:
  /// A tile, with what the producer and the consumers both derive from it.
  struct Work {
    Entry<typename Lane::TensorMap> entry;
    int head;
    IndexRange queries;    ///< of the whole tile; empty if the sequence ends before
    IndexRange key_tiles;  ///< empty if no query sees a key
  };

  PORTOLAN_DEVICE Work open_work(int index) const {
    const TileOrder::Tile tile = parameters_.order[index];
    const int heads = static_cast<int>(parameters_.problem.shape.heads);
    const int entry_index = tile.head / heads;
    const Entry<typename Lane::TensorMap> entry(parameters_.problem, entry_index);
    const ScoreMask& mask = entry.where.mask;
    const IndexRange queries = range_from(tile.query_tile * kQueries, kQueries, mask.queries);
    return {entry, tile.head - entry_index * heads, queries, mask.key_tiles(queries, kKeys)};
  }

  PORTOLAN_DEVICE void init_barriers() const {
    constexpr int kConsumerWarps = kConsumers * kWarpgroupThreads / 32;
    lane_.barrier_init(shared_.q_full, 1);
    lane_.barrier_init(shared_.q_empty, kConsumerWarps);
    for (int stage = 0; stage < kStages; ++stage) {
      lane_.barrier_init(shared_.k_full[stage], 1);
      lane_.barrier_init(shared_.k_empty[stage], kConsumerWarps);
      lane_.barrier_init(shared_.v_full[stage], 1);
      lane_.barrier_init(shared_.v_empty[stage], kConsumerWarps);
    }
    lane_.barriers_initialised();
  }

  // ---- Producer --------------------------------------------------------------------------------

  PORTOLAN_DEVICE void produce() const {
    RingPlace<kStages> k_place;
    RingPlace<kStages> v_place;
    std::uint32_t q_parity = 0;
    for (int index = lane_.block(); index < parameters_.order.tiles();) {
      // Asked for early: the answer takes a while.
      const int next = lane_.blocks() + lane_.take_number(parameters_.next_tile);
      const Work work = open_work(index);
      if (work.queries.size() > 0) {
        produce_tile(index, work, k_place, v_place, q_parity);
      }
      index = next;
    }
    lane_.barrier_wait(shared_.q_empty, q_parity ^ 1U);
    shared_.tile = -1;
    lane_.barrier_arrive(shared_.q_full);
  }

  /// Fills the buffers in the order in which the consumers use them, from the last key tile to the
  /// first.
  PORTOLAN_DEVICE void produce_tile(int index, const Work& work, RingPlace<kStages>& k_place,
                                    RingPlace<kStages>& v_place, std::uint32_t& q_parity) const {
    const auto& problem = parameters_.problem;
    const int group = static_cast<int>(problem.shape.heads / problem.shape.key_heads);
    const auto* k = work.entry.map(lane_, problem, Parameters::kK);
    const auto* v = work.entry.map(lane_, problem, Parameters::kV);
    const auto fill_k = [&](int tile) {
      fill(k_place, shared_.k, shared_.k_full, shared_.k_empty, k,
           work.entry.origin(work.head / group, tile * kKeys));
    };
    const auto fill_v = [&](int tile) {
      fill(v_place, shared_.v, shared_.v_full, shared_.v_empty, v,
           work.entry.origin(work.head / group, tile * kKeys));
    };
    int tile = work.key_tiles.end - 1;
    if (work.key_tiles.size() > 0) {
      fill_k(tile);
    }
    lane_.barrier_wait(shared_.q_empty, q_parity ^ 1U);
    q_parity ^= 1U;
    shared_.tile = index;
    lane_.barrier_announce(shared_.q_full, sizeof(shared_.q));
    copy_tile_in<kQueries, kHeadDim>(lane_, work.entry.map(lane_, problem, Parameters::kQ),
                                     work.entry.origin(work.head, work.queries.begin), shared_.q,
                                     shared_.q_full);
    lane_.barrier_arrive(shared_.q_full);
    if (work.key_tiles.size() > 0) {
      for (; tile > work.key_tiles.begin; --tile) {
        fill_k(tile - 1);
        fill_v(tile);
      }
      fill_v(tile);
    }
  }

  template <typename Tiles>
  PORTOLAN_DEVICE void fill(RingPlace<kStages>& place, Tiles& tiles, std::uint64_t (&full)[kStages],
                            std::uint64_t (&empty)[kStages], const typename Lane::TensorMap* map,
                            BoxOrigin origin) const {
    lane_.barrier_wait(empty[place.stage()], place.parity() ^ 1U);
    lane_.barrier_announce(full[place.stage()], sizeof(tiles[0]));
    copy_tile_in<kKeys, kHeadDim>(lane_, map, origin, tiles[place.stage()], full[place.stage()]);
    lane_.barrier_arrive(full[place.stage()]);
    place = place.next();
  }

  // ---- Consumers -------------------------------------------------------------------------------

  // Named barriers: from 1 on one for each consumer's turn, then one for each one's own threads.
  PORTOLAN_DEVICE void wait_for_turn(int consumer) const {
    lane_.named_barrier_wait(1 + consumer, 2 * kWarpgroupThreads);
  }
  PORTOLAN_DEVICE void pass_turn_to(int consumer) const {
    lane_.named_barrier_arrive(1 + consumer, 2 * kWarpgroupThreads);
  }
  PORTOLAN_DEVICE void gather(int consumer) const {
    lane_.named_barrier_wait(1 + kConsumers + consumer, kWarpgroupThreads);
  }

  PORTOLAN_DEVICE void consume(int consumer) const {
    RingPlace<kStages> place;  // of K and of V: they are as many
    std::uint32_t q_parity = 0;
    if (consumer == kConsumers - 1) {
      pass_turn_to(0);  // the first turn is nobody else's to pass
    }
    for (;;) {
      lane_.barrier_wait(shared_.q_full, q_parity);
      q_parity ^= 1U;
      const int index = shared_.tile;
      if (index < 0) {
        break;
      }
      const Work work = open_work(index);
      float out[kHeadDim / 2] = {};
      SoftmaxRows softmax;
      if (work.key_tiles.size() == 0) {
        release(lane_, shared_.q_empty);
      } else {
        attend(consumer, work, place, softmax, out);
      }
      // Derived once more: kept over the key tiles it would take registers that they need.
      std::uint32_t again[1] = {static_cast<std::uint32_t>(index)};
      lane_.pin(again);
      finish(consumer, open_work(static_cast<int>(again[0])), softmax, out);
    }
    if (consumer == 0) {
      wait_for_turn(0);  // takes the last turn that was passed
    }
    lane_.wait_copies_out_read();
  }

  PORTOLAN_DEVICE IndexRange rows_of(int consumer, const Work& work) const {
    return range_from(work.queries.begin + consumer * kWarpgroupRows, kWarpgroupRows,
                      work.queries.end);
  }
  /// The first of the two rows of which this thread has parts; the other is 8 further.
  PORTOLAN_DEVICE int thread_row() const {
    return accumulator_coordinate(lane_.thread() % kWarpgroupThreads, 0).row;
  }

  /// `out` and `softmax` of the consumer's rows over all of their key tiles.
  PORTOLAN_DEVICE void attend(int consumer, const Work& work, RingPlace<kStages>& place,
                              SoftmaxRows& softmax, float (&out)[kHeadDim / 2]) const {
    const float scale_log2 = parameters_.problem.shape.scale * kLog2E;
    const ScoreMask& mask = work.entry.where.mask;
    const IndexRange rows = rows_of(consumer, work);
    const int row = rows.begin + thread_row();
    const IndexRange seen[2] = {mask.keys_of(row), mask.keys_of(row + 8)};
    // The key tiles of which all rows see all keys.
    const IndexRange whole = {divide_up(mask.keys_of(rows.end - 1).begin, kKeys),
                              mask.keys_of(rows.begin).end / kKeys};
    const std::uint32_t q =
        lane_.shared_address(shared_.q + tile_offset(kQueries, {consumer * kWarpgroupRows, 0}));
    float scores[kKeys / 2];
    std::uint32_t weights[kKeys / 4];
    float rescale[2];

    const auto start_scores = [&](int stage) {
      lane_.start_products();
      multiply_rows<kElement, kHeadDim, kQueries, kKeys>(lane_, scores, q,
                                                         lane_.shared_address(shared_.k[stage]));
      lane_.close_group();
    };
    const auto start_out = [&] {
      // V is waited for only here: the scores that were started before need not wait for it.
      lane_.barrier_wait(shared_.v_full[place.stage()], place.parity());
      lane_.start_products();
      multiply_columns<kElement, kKeys, kHeadDim>(lane_, out, weights,
                                                  lane_.shared_address(shared_.v[place.stage()]));
      lane_.close_group();
    };
    const auto take_scores = [&](int tile) {
      if (!whole.contains(tile)) {
        hide_scores(lane_, scores, seen, tile * kKeys);
      }
      softmax.take(lane_, scores, rescale, scale_log2);
      lane_.pin(scores);
    };

    int tile = work.key_tiles.end - 1;
    lane_.barrier_wait(shared_.k_full[place.stage()], place.parity());
    start_scores(place.stage());
    lane_.template wait_groups<0>();
    lane_.pin(scores);
    release(lane_, shared_.k_empty[place.stage()]);
    take_scores(tile);
    pack_operand<kElement>(lane_, weights, scores);

    while (--tile >= work.key_tiles.begin) {
      // V of the last tile is at `place`, K and V of this one at `next`.
      const RingPlace<kStages> next = place.next();
      lane_.barrier_wait(shared_.k_full[next.stage()], next.parity());
      wait_for_turn(consumer);
      lane_.pin(out);
      lane_.pin(weights);
      start_scores(next.stage());
      start_out();
      pass_turn_to(consumer + 1 == kConsumers ? 0 : consumer + 1);
      lane_.template wait_groups<1>();
      lane_.pin(scores);
      release(lane_, shared_.k_empty[next.stage()]);
      take_scores(tile);
      // Waits for nothing: the assembler moves the wait for products up to the last branch, and
      // this loop keeps it behind the exponentials.
      lane_.barrier_wait(shared_.v_full[place.stage()], place.parity());
      lane_.template wait_groups<0>();
      lane_.pin(out);
      release(lane_, shared_.v_empty[place.stage()]);
      PORTOLAN_UNROLL
      for (int i = 0; i < kHeadDim / 2; ++i) {
        out[i] *= rescale[accumulator_row(i)];
      }
      pack_operand<kElement>(lane_, weights, scores);
      place = next;
    }

    release(lane_, shared_.q_empty);
    lane_.pin(out);
    lane_.pin(weights);
    start_out();
    lane_.template wait_groups<0>();
    lane_.pin(out);
    release(lane_, shared_.v_empty[place.stage()]);
    place = place.next();
  }

  /// Writes the consumer's rows and their log-sum-exp. The next tile's products may start while the
  /// copy engine still reads the rows from shared memory.
  PORTOLAN_DEVICE void finish(int consumer, const Work& work, const SoftmaxRows& softmax,
                              const float (&out)[kHeadDim / 2]) const {
    const auto& problem = parameters_.problem;
    const AttentionEntry& where = work.entry.where;
    const IndexRange rows = rows_of(consumer, work);
    const bool first_of_quad = lane_.thread() % 4 == 0;
    float inverse[2];
    PORTOLAN_UNROLL
    for (int i = 0; i < 2; ++i) {
      const float sum = quad_sum(lane_, softmax.sum[i]);
      const bool saw_nothing = sum == 0.0F;  // not a row of NaN, which stays one
      inverse[i] = saw_nothing ? 0.0F : 1.0F / sum;
      const int row = rows.begin + thread_row() + 8 * i;
      if (parameters_.log_sum_exp != nullptr && first_of_quad && row < rows.end) {
        parameters_.log_sum_exp[where.row_offset(problem.statistics_stride, problem.shape.heads,
                                                 work.head) +
                                row] =
            saw_nothing ? -kInfinity
                        : softmax.largest[i] * problem.shape.scale + lane_.log2(sum) * kLn2;
      }
    }
    if (const FloatResult& result = parameters_.out; result.data != nullptr) {
      write_rows(lane_,
                 result.data + where.query_offset(result.strides, work.head) +
                     rows.begin * result.strides.token,
                 result.strides.token, rows.size(), static_cast<int>(problem.shape.head_dim),
                 result.adds, out, inverse);
      return;
    }
    const bool copies = lane_.thread() % kWarpgroupThreads == 0;
    if (copies) {
      lane_.wait_copies_out_read();  // the last tile's
    }
    gather(consumer);
    store_rows<kElement, kWarpgroupRows>(lane_, lane_.shared_address(shared_.out[consumer]), out,
                                         inverse);
    lane_.fence_shared_writes();
    gather(consumer);
    if (copies && rows.size() > 0) {
      copy_rows_out<kWarpgroupRows, kHeadDim>(
          lane_, work.entry.map(lane_, problem, Parameters::kOut),
          work.entry.origin(work.head, rows.begin), shared_.out[consumer]);
      lane_.close_copies_out();
    }
  }

  const Lane& lane_;
  const Parameters& parameters_;
  Shared& shared_;
};

}  // namespace portolan::cuda::sm90
