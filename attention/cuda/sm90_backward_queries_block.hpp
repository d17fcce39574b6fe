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

/// Gradient of queries. A block owns one query tile of one head and visits the key tiles it sees;
/// each consumer warpgroup owns 64 queries. The gradients dS of the scores stay in registers as the
/// left operand of dQ += dS K. Scores are computed here once more: an addition from the blocks that
/// own keys would need an order among them to give the same bits each time.
namespace portolan::cuda::sm90 {

template <typename TensorMap>
struct BackwardQueriesParameters {
  enum Tensor : int { kQ, kGradOut, kK, kV, kDq, kTensors };
  Problem<TensorMap> problem;
  const float* log_sum_exp = nullptr;
  const float* delta = nullptr;
  FloatResult dq;
};

template <typename Lane, AttentionElement kElement, int kHeadDim>
class BackwardQueriesBlock {
 public:
  using Parameters = BackwardQueriesParameters<typename Lane::TensorMap>;

  static constexpr int kConsumers = 2;
  static constexpr int kQueries = kConsumers * kWarpgroupRows;
  /// Registers of a consumer's thread at head_dim 128: dQ 64, scores 32, their gradients 32 and 16
  /// packed; at 64: dQ 32, 64, 64 and 32. Of 232, with state.
  static constexpr int kKeys = kHeadDim == 128 ? 64 : 128;
  /// Shared memory: Q and dO 64 KiB at head_dim 128, 32 at 64, and a stage of K and V 32 KiB.
  static constexpr int kStages = 4;
  static constexpr int kThreads = (kConsumers + 1) * kWarpgroupThreads;
  // 128 * 40 + 256 * 232 = 384 * 168: what the block is started with.
  static constexpr int kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = 232;

  struct alignas(kPatternBytes) Shared {
    std::byte q[tile_bytes(kQueries, kHeadDim)];  ///< at last dQ
    std::byte grad_out[tile_bytes(kQueries, kHeadDim)];
    std::byte k[kStages][tile_bytes(kKeys, kHeadDim)];
    std::byte v[kStages][tile_bytes(kKeys, kHeadDim)];
    std::uint64_t queries_full;
    std::uint64_t full[kStages], empty[kStages];
  };

  /// Blocks of a launch: one for each tile of each head of each entry.
  [[nodiscard]] static std::int64_t blocks(const AttentionShape& shape) {
    return (shape.query_tokens + kQueries - 1) / kQueries * shape.heads * shape.batch;
  }

  PORTOLAN_DEVICE BackwardQueriesBlock(const Lane& lane, const Parameters& parameters,
                                       Shared& shared)
      : lane_(lane),
        parameters_(parameters),
        shared_(shared),
        entry_(parameters.problem, entry_index()),
        // The last query tiles see the most keys under a causal mask: they start first.
        queries_(range_from((tiles() - 1 - lane.block() % tiles()) * kQueries, kQueries,
                            entry_.where.mask.queries)),
        key_tiles_(entry_.where.mask.key_tiles(queries_, kKeys)) {}

  PORTOLAN_DEVICE void run() const {
    if (queries_.size() == 0) {
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
        produce();
      }
    } else {
      lane_.template grow_registers<kConsumerRegisters>();
      consume(warpgroup - 1);
    }
  }

 private:
  using TensorMap = typename Lane::TensorMap;

  PORTOLAN_DEVICE int tiles() const {
    return divide_up(static_cast<int>(parameters_.problem.shape.query_tokens), kQueries);
  }
  PORTOLAN_DEVICE int heads() const { return static_cast<int>(parameters_.problem.shape.heads); }
  PORTOLAN_DEVICE int head() const { return lane_.block() / tiles() % heads(); }
  PORTOLAN_DEVICE int entry_index() const { return lane_.block() / tiles() / heads(); }
  PORTOLAN_DEVICE const TensorMap* map(int tensor) const {
    return entry_.map(lane_, parameters_.problem, tensor);
  }

  PORTOLAN_DEVICE void init_barriers() const {
    lane_.barrier_init(shared_.queries_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      lane_.barrier_init(shared_.full[stage], 1);
      lane_.barrier_init(shared_.empty[stage], kConsumers * kWarpgroupThreads / 32);
    }
    lane_.barriers_initialised();
  }

  PORTOLAN_DEVICE void produce() const {
    const AttentionShape& shape = parameters_.problem.shape;
    const int key_head = head() / static_cast<int>(shape.heads / shape.key_heads);
    lane_.barrier_announce(shared_.queries_full, sizeof(shared_.q) + sizeof(shared_.grad_out));
    copy_tile_in<kQueries, kHeadDim>(lane_, map(Parameters::kQ),
                                     entry_.origin(head(), queries_.begin), shared_.q,
                                     shared_.queries_full);
    copy_tile_in<kQueries, kHeadDim>(lane_, map(Parameters::kGradOut),
                                     entry_.origin(head(), queries_.begin), shared_.grad_out,
                                     shared_.queries_full);
    lane_.barrier_arrive(shared_.queries_full);
    const TensorMap* k = map(Parameters::kK);
    const TensorMap* v = map(Parameters::kV);
    RingPlace<kStages> place;
    for (int tile = key_tiles_.begin; tile < key_tiles_.end; ++tile) {
      std::uint64_t& full = shared_.full[place.stage()];
      lane_.barrier_wait(shared_.empty[place.stage()], place.parity() ^ 1U);
      lane_.barrier_announce(full, sizeof(shared_.k[0]) + sizeof(shared_.v[0]));
      copy_tile_in<kKeys, kHeadDim>(lane_, k, entry_.origin(key_head, tile * kKeys),
                                    shared_.k[place.stage()], full);
      copy_tile_in<kKeys, kHeadDim>(lane_, v, entry_.origin(key_head, tile * kKeys),
                                    shared_.v[place.stage()], full);
      lane_.barrier_arrive(full);
      place = place.next();
    }
  }

  PORTOLAN_DEVICE void consume(int consumer) const {
    const auto& problem = parameters_.problem;
    const ScoreMask& mask = entry_.where.mask;
    const float scale_log2 = problem.shape.scale * kLog2E;
    const int thread = lane_.thread() % kWarpgroupThreads;
    const int first_row = tile_offset(kQueries, {consumer * kWarpgroupRows, 0});
    const int first_query = queries_.begin + consumer * kWarpgroupRows;
    const int thread_query = first_query + accumulator_coordinate(thread, 0).row;
    const IndexRange queries = range_from(first_query, kWarpgroupRows, queries_.end);
    const std::uint32_t q = lane_.shared_address(shared_.q + first_row);
    const std::uint32_t grad_out = lane_.shared_address(shared_.grad_out + first_row);
    float log2_sum[2];
    float delta[2];
    PORTOLAN_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int query = thread_query + 8 * i;
      const bool valid = query < queries.end;
      const std::int64_t row =
          entry_.where.row_offset(problem.statistics_stride, problem.shape.heads, head()) + query;
      log2_sum[i] = valid ? log2_sum_of(parameters_.log_sum_exp[row]) : kInfinity;
      delta[i] = valid ? parameters_.delta[row] : 0.0F;
    }
    float dq[kHeadDim / 2] = {};
    float scores[kKeys / 2];
    float products[kKeys / 2];
    std::uint32_t gradients[kKeys / 4];

    const auto start_scores = [&](int stage) {
      lane_.start_products();
      multiply_rows<kElement, kHeadDim, kQueries, kKeys>(lane_, scores, q,
                                                         lane_.shared_address(shared_.k[stage]));
      lane_.close_group();
      multiply_rows<kElement, kHeadDim, kQueries, kKeys>(lane_, products, grad_out,
                                                         lane_.shared_address(shared_.v[stage]));
      lane_.close_group();
    };

    lane_.barrier_wait(shared_.queries_full, 0);
    lane_.pin(dq);
    RingPlace<kStages> place;
    int before = -1;  // the stage of the key tile before this one
    for (int tile = key_tiles_.begin; tile < key_tiles_.end; ++tile) {
      const int stage = place.stage();
      const std::uint32_t parity = place.parity();
      lane_.barrier_wait(shared_.full[stage], parity);
      place = place.next();
      start_scores(stage);
      // All but dO V^T, so also dQ of the tile before, which ran on until here.
      lane_.template wait_groups<1>();
      lane_.pin(scores);
      if (before >= 0) {
        release(lane_, shared_.empty[before]);
      }
      before = stage;
      const int first_key = tile * kKeys;
      if (queries.size() > 0 && mask.hides_keys(queries, {first_key, first_key + kKeys})) {
        const IndexRange seen[2] = {mask.keys_of(thread_query), mask.keys_of(thread_query + 8)};
        hide_scores(lane_, scores, seen, first_key);
      }
      PORTOLAN_UNROLL
      for (int i = 0; i < kKeys / 2; ++i) {
        scores[i] =
            lane_.exp2(lane_.multiply_add(scores[i], scale_log2, -log2_sum[accumulator_row(i)]));
      }
      lane_.pin(scores);
      // Waits for nothing: the assembler moves the wait for products up to the last branch, and
      // this loop keeps it behind the exponentials.
      lane_.barrier_wait(shared_.full[stage], parity);
      lane_.template wait_groups<0>();
      lane_.pin(products);
      PORTOLAN_UNROLL
      for (int i = 0; i < kKeys / 2; ++i) {
        products[i] = scores[i] * (products[i] - delta[accumulator_row(i)]);
      }
      pack_operand<kElement>(lane_, gradients, products);
      lane_.pin(gradients);
      lane_.start_products();
      multiply_columns<kElement, kKeys, kHeadDim>(lane_, dq, gradients,
                                                  lane_.shared_address(shared_.k[stage]));
      lane_.close_group();
    }
    lane_.template wait_groups<0>();
    lane_.pin(dq);

    const float scale = problem.shape.scale;
    if (const FloatResult& result = parameters_.dq; result.data != nullptr) {
      write_rows(lane_,
                 result.data + entry_.where.query_offset(result.strides, head()) +
                     first_query * result.strides.token,
                 result.strides.token, queries.size(), static_cast<int>(problem.shape.head_dim),
                 result.adds, dq, {scale, scale});
      return;
    }
    // This warpgroup alone has read these rows of Q: the gradient may take their place.
    const int barrier = 1 + consumer;
    lane_.named_barrier_wait(barrier, kWarpgroupThreads);
    store_rows<kElement, kQueries>(lane_, q, dq, {scale, scale});
    lane_.fence_shared_writes();
    lane_.named_barrier_wait(barrier, kWarpgroupThreads);
    if (thread == 0 && queries.size() > 0) {
      copy_rows_out<kQueries, kHeadDim>(lane_, map(Parameters::kDq),
                                        entry_.origin(head(), first_query), shared_.q + first_row);
      lane_.close_copies_out();
      lane_.wait_copies_out_read();
    }
  }

  const Lane& lane_;
  const Parameters& parameters_;
  Shared& shared_;
  Entry<TensorMap> entry_;
  IndexRange queries_;
  IndexRange key_tiles_;
};

}  // namespace portolan::cuda::sm90
