// SPDX-License-Identifier: Apache-2.0
#include "attention/portable/plan.hpp"

#include <utility>

#include "core/backend.hpp"

namespace portolan::portable {

std::string unsupported_reason(AttentionMethod method, AttentionPass pass,
                               const AttentionProblem& problem) {
  if (method == AttentionMethod::window && problem.mask.window == 0) {
    return "it needs a sliding window";
  }
  if (method == AttentionMethod::block_sparse && problem.mask.blocks == nullptr) {
    return "it needs a block map";
  }
  const bool blocks = !is_tiled(method) || method == AttentionMethod::block_sparse;
  if (goes_by_cached_rows(method, problem) && problem.statistics != nullptr) {
    return "over cached rows it works in no tiles that it could count";
  }
  const bool cached_rows = pass == AttentionPass::forward && (method == AttentionMethod::standard ||
                                                              goes_by_cached_rows(method, problem));
  return unserved_feature(problem, {.packing = true,
                                    .padding = true,
                                    .blocks = blocks,
                                    .dropout = true,
                                    .cached_rows = cached_rows});
}

void Workspace::add(const void* source, std::size_t bytes, std::function<void(void*)> place) {
  constexpr std::size_t kAlignment = CachingAllocator::kAlignment;
  parts_.push_back({source, bytes, bytes_, std::move(place)});
  bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void Workspace::allocate(Device device) {
  memory_ = Tensor::empty({static_cast<std::int64_t>(bytes_)}, DType::u8, device);
  for (const Part& part : parts_) {
    std::byte* address = memory_.raw() + part.offset;
    if (part.source != nullptr && part.bytes > 0) {
      backend_of(device).copy_bytes(address, part.source, part.bytes, Queue::compute);
    }
    part.place(address);
  }
}

Tables::Tables(const AttentionProblem& problem, AttentionPass pass, std::int64_t tile) {
  if (problem.cached_rows.defined()) return;
  const AttentionMask& mask = problem.mask;
  const std::int64_t query_tokens = problem.q.dim(1);
  const std::int64_t key_tokens = problem.k.dim(1);
  const std::vector<TokenRun> queries = resolved_query_runs(mask, query_tokens, key_tokens);
  const std::vector<TokenRun> keys = resolved_key_runs(mask, key_tokens);
  query_runs = split_runs(queries, query_tokens);
  key_runs = split_runs(keys, key_tokens);
  const bool backward = pass == AttentionPass::backward;
  if (backward && mask.blocks) transposed_blocks = transposed(*mask.blocks);
  if (tile == 0) return;
  query_tiles = split_runs(queries, tile, mask.blocks ? mask.blocks->block_queries : 0);
  if (backward) key_tiles = split_runs(keys, tile, mask.blocks ? mask.blocks->block_keys : 0);
}

}  // namespace portolan::portable
