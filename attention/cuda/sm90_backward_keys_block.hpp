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

/// Gradients of keys and values. A block owns one key tile of one key head and visits, head by
/// head, the query tiles that see it; each consumer warpgroup owns 64 keys. Scores are computed
/// transposed, keys by queries: so the weights P^T and the gradients dS^T of the scores stay in
/// registers as left operands of dV += P^T dO and dK += dS^T Q, and nothing but copies goes through
/// shared memory. The sums run in one order, in registers: no atomics, the same bits each time.
namespace portolan::cuda::sm90 {

template <typename TensorMap>
struct BackwardKeysParameters {
  enum Tensor : int { kQ, kGradOut, kK, kV, kDk, kDv, kTensors };
  Problem<TensorMap> problem;
  const float* log_sum_exp = nullptr;
  const float* delta = nullptr;
  FloatResult dk;
  FloatResult dv;
};

template <typename Lane, AttentionElement kElement, int kHeadDim>
class BackwardKeysBlock {
 public:
  using Parameters = BackwardKeysParameters<typename Lane::TensorMap>;

  /// Registers of a consumer's thread at head_dim 128: dK 64, dV 64, scores 32, their gradients 32,
  /// both packed 16 each, and state: of 240. More queries at once do not fit.
  static constexpr int kConsumers = 2;
  static constexpr int kKeys = kConsumers * kWarpgroupRows;
  static constexpr int kQueries = 64;
  /// Shared memory at head_dim 128: K and V 32 KiB each, a stage of Q and dO 32 KiB: 192 KiB.
  static constexpr int kStages = 4;
  /// Whether dV and dK of a tile may still run when the next scores start: at head_dim 128 there
  /// are no registers for both.
  static constexpr bool kRunsOn = kHeadDim <= 64;
  static constexpr int kThreads = (kConsumers + 1) * kWarpgroupThreads;
  // 128 * 24 + 256 * 240 = 128 * 40 + 256 * 232 = 384 * 168: what the block is started with.
  static constexpr int kProducerRegisters = kHeadDim > 64 ? 24 : 40;
  static constexpr int kConsumerRegisters = kHeadDim > 64 ? 240 : 232;

  struct alignas(kPatternBytes) Shared {
    std::byte k[tile_bytes(kKeys, kHeadDim)];  ///< at last dK
    std::byte v[tile_bytes(kKeys, kHeadDim)];  ///< at last dV
    std::byte q[kStages][tile_bytes(kQueries, kHeadDim)];
    std::byte grad_out[kStages][tile_bytes(kQueries, kHeadDim)];
    float log2_sum[kStages][kQueries];  ///< log_sum_exp to base 2; infinity hides a query
    float delta[kStages][kQueries];
    std::uint64_t keys_full;
    std::uint64_t full[kStages], empty[kStages];
  };

  /// Blocks of a launch: one for each tile of each key head of each entry.
  [[nodiscard]] static std::int64_t blocks(const AttentionShape& shape) {
    return (shape.key_tokens + kKeys - 1) / kKeys * shape.key_heads * shape.batch;
  }

  PORTOLAN_DEVICE BackwardKeysBlock(const Lane& lane, const Parameters& parameters, Shared& shared)
      : lane_(lane),
        parameters_(parameters),
        shared_(shared),
        group_(
            static_cast<int>(parameters.problem.shape.heads / parameters.problem.shape.key_heads)),
        entry_(parameters.problem, entry_index()),
        // The first key tiles have the most queries under a causal mask: they start first.
        keys_(range_from(lane.block() % tiles() * kKeys, kKeys, entry_.where.mask.keys)),
        query_tiles_(entry_.where.mask.query_tiles(keys_, kQueries)) {}

  PORTOLAN_DEVICE void run() const {
    if (keys_.size() == 0) {
      return;  // a packed sequence shorter than the longest
    }
    if (lane_.thread() == 0) {
      init_barriers();
    }
    lane_.block_barrier();
    const int warpgroup = lane_.warp_uniform(lane_.thread() / kWarpgroupThreads);
    if (warpgroup == 0) {
      lane_.template shrink_registers<kProducerRegisters>();
      if (lane_.thread() == 0) {
        bring_tiles();
      } else if (lane_.warp_uniform(lane_.thread() / 32) == 1) {
        bring_statistics();
      }
    } else {
      lane_.template grow_registers<kConsumerRegisters>();
      consume(warpgroup - 1);
    }
  }

 private:
  using TensorMap = typename Lane::TensorMap;

  PORTOLAN_DEVICE int tiles() const {
    return divide_up(static_cast<int>(parameters_.problem.shape.key_tokens), kKeys);
  }
  PORTOLAN_DEVICE int key_heads() const {
    return static_cast<int>(parameters_.problem.shape.key_heads);
  }
  PORTOLAN_DEVICE int key_head() const { return lane_.block() / tiles() % key_heads(); }
  PORTOLAN_DEVICE int entry_index() const { return lane_.block() / tiles() / key_heads(); }
  PORTOLAN_DEVICE const TensorMap* map(int tensor) const {
    return entry_.map(lane_, parameters_.problem, tensor);
  }

  PORTOLAN_DEVICE void init_barriers() const {
    lane_.barrier_init(shared_.keys_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      lane_.barrier_init(shared_.full[stage], 1 + 32);  // bring_tiles(), bring_statistics()
      lane_.barrier_init(shared_.empty[stage], kConsumers * kWarpgroupThreads / 32);
    }
    lane_.barriers_initialised();
  }

  /// One thread starts the copies of K and V, and of Q and dO head by head.
  PORTOLAN_DEVICE void bring_tiles() const {
    lane_.barrier_announce(shared_.keys_full, sizeof(shared_.k) + sizeof(shared_.v));
    copy_tile_in<kKeys, kHeadDim>(lane_, map(Parameters::kK),
                                  entry_.origin(key_head(), keys_.begin), shared_.k,
                                  shared_.keys_full);
    copy_tile_in<kKeys, kHeadDim>(lane_, map(Parameters::kV),
                                  entry_.origin(key_head(), keys_.begin), shared_.v,
                                  shared_.keys_full);
    lane_.barrier_arrive(shared_.keys_full);
    const TensorMap* q = map(Parameters::kQ);
    const TensorMap* grad_out = map(Parameters::kGradOut);
    const int first_head = key_head() * group_;
    RingPlace<kStages> place;
    for (int head = first_head; head < first_head + group_; ++head) {
      for (int tile = query_tiles_.begin; tile < query_tiles_.end; ++tile) {
        const int stage = place.stage();
        lane_.barrier_wait(shared_.empty[stage], place.parity() ^ 1U);
        lane_.barrier_announce(shared_.full[stage],
                               sizeof(shared_.q[0]) + sizeof(shared_.grad_out[0]));
        copy_tile_in<kQueries, kHeadDim>(lane_, q, entry_.origin(head, tile * kQueries),
                                         shared_.q[stage], shared_.full[stage]);
        copy_tile_in<kQueries, kHeadDim>(lane_, grad_out, entry_.origin(head, tile * kQueries),
                                         shared_.grad_out[stage], shared_.full[stage]);
        lane_.barrier_arrive(shared_.full[stage]);
        place = place.next();
      }
    }
  }

  /// One warp brings the queries' statistics, which are too ragged for the copy engine.
  PORTOLAN_DEVICE void bring_statistics() const {
    const auto& problem = parameters_.problem;
    const int first_head = key_head() * group_;
    RingPlace<kStages> place;
    for (int head = first_head; head < first_head + group_; ++head) {
      const std::int64_t row =
          entry_.where.row_offset(problem.statistics_stride, problem.shape.heads, head);
      for (int tile = query_tiles_.begin; tile < query_tiles_.end; ++tile) {
        const int stage = place.stage();
        lane_.barrier_wait(shared_.empty[stage], place.parity() ^ 1U);
        for (int i = lane_.thread() % 32; i < kQueries; i += 32) {
          const int query = tile * kQueries + i;
          const bool valid = query < entry_.where.mask.queries;
          shared_.log2_sum[stage][i] =
              valid ? log2_sum_of(parameters_.log_sum_exp[row + query]) : kInfinity;
          shared_.delta[stage][i] = valid ? parameters_.delta[row + query] : 0.0F;
        }
        lane_.barrier_arrive(shared_.full[stage]);
        place = place.next();
      }
    }
  }

  PORTOLAN_DEVICE void consume(int consumer) const {
    const ScoreMask& mask = entry_.where.mask;
    const float scale_log2 = parameters_.problem.shape.scale * kLog2E;
    const int thread = lane_.thread() % kWarpgroupThreads;
    const int first_row = tile_offset(kKeys, {consumer * kWarpgroupRows, 0});
    const int first_key = keys_.begin + consumer * kWarpgroupRows;
    const IndexRange keys = range_from(first_key, kWarpgroupRows, keys_.end);
    const std::uint32_t k = lane_.shared_address(shared_.k + first_row);
    const std::uint32_t v = lane_.shared_address(shared_.v + first_row);
    float dk[kHeadDim / 2] = {};
    float dv[kHeadDim / 2] = {};
    float scores[kQueries / 2];
    float products[kQueries / 2];
    std::uint32_t weights[kQueries / 4];
    std::uint32_t gradients[kQueries / 4];

    const auto start_scores = [&](int stage) {
      lane_.start_products();
      multiply_rows<kElement, kHeadDim, kKeys, kQueries>(lane_, scores, k,
                                                         lane_.shared_address(shared_.q[stage]));
      lane_.close_group();
      multiply_rows<kElement, kHeadDim, kKeys, kQueries>(
          lane_, products, v, lane_.shared_address(shared_.grad_out[stage]));
      lane_.close_group();
    };

    lane_.barrier_wait(shared_.keys_full, 0);
    lane_.pin(dk);
    lane_.pin(dv);
    RingPlace<kStages> place;
    int before = -1;  // the stage of the query tile before this one
    // One loop over the heads' tiles: products must not be under way from one loop into another.
    int tile = query_tiles_.begin;
    for (int left = query_tiles_.size() * group_; left > 0; --left) {
      const int stage = place.stage();
      lane_.barrier_wait(shared_.full[stage], place.parity());
      place = place.next();
      start_scores(stage);
      // All but dO V^T, so also what is left of dV and dK of the tile before.
      lane_.template wait_groups<1>();
      lane_.pin(scores);
      if constexpr (kRunsOn) {
        if (before >= 0) {
          release(lane_, shared_.empty[before]);
        }
        before = stage;
      }
      const int first_query = tile * kQueries;
      if (keys.size() > 0 && mask.hides_queries(keys, {first_query, first_query + kQueries})) {
        const int key = first_key + accumulator_coordinate(thread, 0).row;
        const IndexRange seen[2] = {mask.queries_of(key), mask.queries_of(key + 8)};
        hide_scores(lane_, scores, seen, first_query);
      }
      PORTOLAN_UNROLL
      for (int i = 0; i < kQueries / 2; ++i) {
        const int query = accumulator_coordinate(thread, i).column;
        scores[i] =
            lane_.exp2(lane_.multiply_add(scores[i], scale_log2, -shared_.log2_sum[stage][query]));
      }
      pack_operand<kElement>(lane_, weights, scores);
      lane_.pin(weights);
      lane_.start_products();
      multiply_columns<kElement, kQueries, kHeadDim>(lane_, dv, weights,
                                                     lane_.shared_address(shared_.grad_out[stage]));
      lane_.close_group();
      lane_.template wait_groups<1>();  // all but dV
      lane_.pin(products);
      PORTOLAN_UNROLL
      for (int i = 0; i < kQueries / 2; ++i) {
        const int query = accumulator_coordinate(thread, i).column;
        products[i] = scores[i] * (products[i] - shared_.delta[stage][query]);
      }
      pack_operand<kElement>(lane_, gradients, products);
      lane_.pin(gradients);
      lane_.start_products();
      multiply_columns<kElement, kQueries, kHeadDim>(lane_, dk, gradients,
                                                     lane_.shared_address(shared_.q[stage]));
      lane_.close_group();
      if constexpr (!kRunsOn) {
        lane_.template wait_groups<0>();
        lane_.pin(dv);
        lane_.pin(dk);
        release(lane_, shared_.empty[stage]);
      }
      if (++tile == query_tiles_.end) {
        tile = query_tiles_.begin;
      }
    }
    lane_.template wait_groups<0>();
    lane_.pin(dv);
    lane_.pin(dk);

    const float scale = parameters_.problem.shape.scale;
    if (parameters_.dk.data != nullptr) {
      write(parameters_.dk, keys, dk, {scale, scale});
      write(parameters_.dv, keys, dv, {1.0F, 1.0F});
      return;
    }
    // This warpgroup alone has read these rows of K and V: the gradients may take their places.
    const int barrier = 1 + consumer;
    lane_.named_barrier_wait(barrier, kWarpgroupThreads);
    store_rows<kElement, kKeys>(lane_, k, dk, {scale, scale});
    store_rows<kElement, kKeys>(lane_, v, dv, {1.0F, 1.0F});
    lane_.fence_shared_writes();
    lane_.named_barrier_wait(barrier, kWarpgroupThreads);
    if (thread == 0 && keys.size() > 0) {
      copy_rows_out<kKeys, kHeadDim>(lane_, map(Parameters::kDk),
                                     entry_.origin(key_head(), first_key), shared_.k + first_row);
      copy_rows_out<kKeys, kHeadDim>(lane_, map(Parameters::kDv),
                                     entry_.origin(key_head(), first_key), shared_.v + first_row);
      lane_.close_copies_out();
      lane_.wait_copies_out_read();
    }
  }

  PORTOLAN_DEVICE void write(const FloatResult& result, IndexRange keys,
                             const float (&gradient)[kHeadDim / 2],
                             const float (&factors)[2]) const {
    write_rows(lane_,
               result.data + entry_.where.key_offset(result.strides, key_head()) +
                   keys.begin * result.strides.token,
               result.strides.token, keys.size(),
               static_cast<int>(parameters_.problem.shape.head_dim), result.adds, gradient,
               factors);
  }

  const Lane& lane_;
  const Parameters& parameters_;
  Shared& shared_;
  int group_;  ///< query heads of the key head
  Entry<TensorMap> entry_;
  IndexRange keys_;
  IndexRange query_tiles_;
};

}  // namespace portolan::cuda::sm90
