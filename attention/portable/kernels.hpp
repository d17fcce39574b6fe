// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

#include "attention/portable/flash_forward.hpp"
#include "attention/portable/standard_forward.hpp"
#include "core/backend.hpp"

/// Attention kernels over the functors of this folder; instantiated once per execution space.
namespace portolan::portable {

/// Takes scratch from the device's allocator and fills its head with tables of runs or tiles.
class Workspace {
 public:
  Workspace(Device device, std::size_t bytes)
      : memory_(Tensor::empty({static_cast<std::int64_t>(bytes)}, DType::u8, device)) {}

  [[nodiscard]] const RowTile* upload(const std::vector<RowTile>& table) {
    std::byte* address = take(table.size() * sizeof(RowTile));
    backend_of(memory_.device())
        .copy_bytes(address, table.data(), table.size() * sizeof(RowTile), Queue::compute);
    return reinterpret_cast<const RowTile*>(address);
  }

  [[nodiscard]] std::byte* take(std::size_t bytes) {
    std::byte* address = memory_.raw() + used_;
    used_ += round_up(bytes);
    return address;
  }

  [[nodiscard]] static std::size_t round_up(std::size_t bytes) {
    constexpr std::size_t kAlignment = CachingAllocator::kAlignment;
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  [[nodiscard]] static std::size_t table_bytes(const std::vector<RowTile>& table) {
    return round_up(table.size() * sizeof(RowTile));
  }

 private:
  Tensor memory_;
  std::size_t used_ = 0;
};

/// The mask's runs cut into tiles; whole runs if `tile` is 0.
struct Tables {
  std::vector<RowTile> queries;
  std::vector<RowTile> keys;

  Tables(const AttentionProblem& problem, std::int64_t query_tile) {
    const std::int64_t query_tokens = problem.q.dim(1);
    const std::int64_t key_tokens = problem.k.dim(1);
    queries = split_runs(resolved_query_runs(problem.mask, query_tokens, key_tokens),
                         query_tile > 0 ? query_tile : query_tokens);
    keys = split_runs(resolved_key_runs(problem.mask, key_tokens), key_tokens);
  }

  [[nodiscard]] std::size_t bytes() const {
    return Workspace::table_bytes(queries) + Workspace::table_bytes(keys);
  }
};

template <typename Space, DeviceKind kDevice>
class FlashKernel final : public AttentionForwardKernel {
 public:
  [[nodiscard]] DeviceKind device() const override { return kDevice; }
  [[nodiscard]] AttentionMethod method() const override { return AttentionMethod::flash; }
  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem) const override {
    return unserved_feature(problem, {});
  }

  [[nodiscard]] std::size_t workspace_bytes(const AttentionProblem& problem) const override {
    return Tables(problem, query_tile(problem)).bytes();
  }

  void forward(const AttentionProblem& problem, const Tensor& out,
               const Tensor& log_sum_exp) const override {
    const Tables tables(problem, query_tile(problem));
    Workspace workspace(problem.q.device(), tables.bytes());
    const RowTile* queries = workspace.upload(tables.queries);
    const RowTile* keys = workspace.upload(tables.keys);
    with_operands(problem, out, log_sum_exp,
                  [&]<typename T, typename Out>(const Operands<T, Out>& operands) {
                    FlashForward<Space, T, Out>(operands, queries,
                                                static_cast<std::int64_t>(tables.queries.size()),
                                                keys, static_cast<int>(tables.keys.size()))
                        .launch();
                  });
  }

 private:
  static std::int64_t query_tile(const AttentionProblem& problem) {
    return FlashForward<Space, float, float>::query_tile(static_cast<int>(problem.q.dim(3)));
  }
};

template <typename Space, DeviceKind kDevice>
class StandardKernel final : public AttentionForwardKernel {
 public:
  [[nodiscard]] DeviceKind device() const override { return kDevice; }
  [[nodiscard]] AttentionMethod method() const override { return AttentionMethod::standard; }
  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem) const override {
    return unserved_feature(problem, {});
  }

  [[nodiscard]] std::size_t workspace_bytes(const AttentionProblem& problem) const override {
    return Tables(problem, 0).bytes() + score_bytes(problem);
  }

  void forward(const AttentionProblem& problem, const Tensor& out,
               const Tensor& log_sum_exp) const override {
    const Tables tables(problem, 0);
    Workspace workspace(problem.q.device(), tables.bytes() + score_bytes(problem));
    const RowTile* queries = workspace.upload(tables.queries);
    const RowTile* keys = workspace.upload(tables.keys);
    auto* scores = reinterpret_cast<float*>(workspace.take(score_bytes(problem)));
    with_operands(
        problem, out, log_sum_exp, [&]<typename T, typename Out>(const Operands<T, Out>& operands) {
          StandardForward<Space, T, Out>(operands, queries, static_cast<int>(tables.queries.size()),
                                         keys, static_cast<int>(tables.keys.size()), scores)
              .launch();
        });
  }

 private:
  static std::size_t score_bytes(const AttentionProblem& problem) {
    return Workspace::round_up(sizeof(float) *
                               static_cast<std::size_t>(problem.q.dim(0) * problem.q.dim(1) *
                                                        problem.q.dim(2) * problem.k.dim(1)));
  }
};

}  // namespace portolan::portable
