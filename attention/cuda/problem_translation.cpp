// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda/problem_translation.hpp"

#include <algorithm>
#include <optional>

#include "attention/kernel.hpp"
#include "attention/mask.hpp"

namespace portolan::cuda {
namespace {

bool end_together(const TokenRun& queries, const TokenRun& keys) {
  return queries.position + queries.length == keys.position + keys.length;
}

TileVisibility visibility(const MaskRule& rule, const TokenRun& queries, const TokenRun& keys) {
  const auto tile = [](const TokenRun& run) {
    return RowTile{.row = 0, .position = run.position, .length = run.length, .sequence = 0};
  };
  return tile_visibility(rule, tile(queries), tile(keys));
}

/// The mask of one run of queries and one of keys; nothing if kernels do not know it.
std::optional<MaskRule> mask_of(const MaskRule& rule, const TokenRun& queries,
                                const TokenRun& keys) {
  MaskRule none = rule;
  none.causal = false;
  none.window = 0;
  if (queries.length == 0 || keys.length == 0) return none;
  if (visibility(rule, queries, keys) == TileVisibility::full) return none;
  if (end_together(queries, keys)) return rule;
  return std::nullopt;
}

void set_mask(AttentionShape& shape, const MaskRule& rule) {
  shape.causal = rule.causal;
  shape.window = rule.window;
}

void set_rows(AttentionPart& part, IndexRange query_rows, IndexRange key_rows) {
  part.query_rows = query_rows;
  part.key_rows = key_rows;
  part.shape.query_tokens = query_rows.size();
  part.shape.key_tokens = key_rows.size();
}

/// The keys that one run of queries sees, and how. False if kernels do not know it.
bool find_keys(const MaskRule& rule, const TokenRun& queries, const std::vector<TokenRun>& key_runs,
               IndexRange query_rows, AttentionPart& part) {
  IndexRange key_rows;
  int row = 0;
  int runs = 0;
  MaskRule mask = rule;
  for (const TokenRun& keys : key_runs) {
    const IndexRange rows{row, row + static_cast<int>(keys.length)};
    row = rows.end;
    if (visibility(rule, queries, keys) == TileVisibility::none) continue;
    // What came before must be neighbours, and hidden from nobody.
    if (runs > 0 && (key_rows.end != rows.begin || mask.causal)) return false;
    const std::optional<MaskRule> found = mask_of(rule, queries, keys);
    if (!found) return false;
    // Kernels count positions through all keys: what hides keys of the last run must not be so old
    // as to hide some of the runs before.
    const bool reaches_back = found->window > 0 || queries.position < keys.position;
    if (runs > 0 && found->causal && reaches_back) return false;
    mask = *found;
    key_rows = {runs > 0 ? key_rows.begin : rows.begin, rows.end};
    ++runs;
  }
  set_rows(part, query_rows, key_rows);
  set_mask(part.shape, mask);
  return true;
}

/// One part for all queries if all see the same keys, and all of them.
void join_parts(std::vector<AttentionPart>& parts) {
  const AttentionPart& first = parts.front();
  const bool joined = std::ranges::all_of(parts, [&](const AttentionPart& part) {
    return part.key_rows.begin == first.key_rows.begin && part.key_rows.end == first.key_rows.end &&
           !part.shape.causal && part.shape.window == 0;
  });
  if (!joined) return;
  set_rows(parts.front(), {first.query_rows.begin, parts.back().query_rows.end}, first.key_rows);
  parts.resize(1);
}

std::string translate_sequence(const MaskRule& rule, const std::vector<TokenRun>& query_runs,
                               const std::vector<TokenRun>& key_runs, const AttentionShape& common,
                               TranslatedProblem& result) {
  int row = 0;
  for (const TokenRun& queries : query_runs) {
    if (queries.length == 0) continue;
    AttentionPart part{.query_rows = {}, .key_rows = {}, .shape = common};
    const IndexRange rows{row, row + static_cast<int>(queries.length)};
    row = rows.end;
    if (!find_keys(rule, queries, key_runs, rows, part)) {
      return "its mask is not aligned to the ends of its runs";
    }
    result.parts.push_back(part);
  }
  if (result.parts.empty())
    result.parts.push_back({.query_rows = {}, .key_rows = {}, .shape = common});
  join_parts(result.parts);
  return {};
}

std::string translate_packed(const MaskRule& rule, const std::vector<TokenRun>& query_runs,
                             const std::vector<TokenRun>& key_runs, const AttentionShape& common,
                             TranslatedProblem& result) {
  constexpr const char* kNotPaired =
      "its packed sequences are not one run of queries and one of keys each, in one order";
  if (common.batch != 1) return "it takes packed sequences in one batch entry only";
  if (query_runs.size() != key_runs.size()) return kNotPaired;
  AttentionPart part{.query_rows = {}, .key_rows = {}, .shape = common};
  std::vector<std::int64_t> sequences;
  result.query_offsets = {0};
  result.key_offsets = {0};
  bool masked = false;
  bool aligned = true;
  std::int64_t longest_queries = 0;
  std::int64_t longest_keys = 0;
  for (std::size_t i = 0; i < query_runs.size(); ++i) {
    const TokenRun& queries = query_runs[i];
    const TokenRun& keys = key_runs[i];
    if (queries.sequence != keys.sequence) return kNotPaired;
    sequences.push_back(queries.sequence);
    const bool whole = queries.length == 0 || keys.length == 0 ||
                       visibility(rule, queries, keys) == TileVisibility::full;
    masked = masked || !whole;
    aligned = aligned && (queries.length == 0 || keys.length == 0 || end_together(queries, keys));
    longest_queries = std::max(longest_queries, queries.length);
    longest_keys = std::max(longest_keys, keys.length);
    result.query_offsets.push_back(
        static_cast<std::int32_t>(result.query_offsets.back() + queries.length));
    result.key_offsets.push_back(
        static_cast<std::int32_t>(result.key_offsets.back() + keys.length));
  }
  std::ranges::sort(sequences);
  if (std::ranges::adjacent_find(sequences) != sequences.end()) return kNotPaired;
  if (masked && !aligned) return "the queries of a packed sequence do not end where its keys end";
  set_rows(part, {0, result.query_offsets.back()}, {0, result.key_offsets.back()});
  part.shape.batch = std::ssize(sequences);
  part.shape.query_tokens = longest_queries;
  part.shape.key_tokens = longest_keys;
  part.shape.causal = masked && rule.causal;
  part.shape.window = masked ? rule.window : 0;
  result.parts = {part};
  return {};
}

/// What all parts have in common.
std::string translate_operands(const AttentionProblem& problem, AttentionShape& shape) {
  if (std::string reason = unserved_feature(problem, {.packing = true, .cached_rows = true});
      !reason.empty()) {
    return reason;
  }
  if (problem.statistics != nullptr) return "it does not count tiles";
  if (problem.q.dtype() != DType::bf16 && problem.q.dtype() != DType::f16) {
    return "it takes bf16 and f16 only";
  }
  for (const Tensor* operand : {&problem.q, &problem.k, &problem.v}) {
    if (!has_aligned_rows(*operand)) return "its operands do not lie at multiples of 16 bytes";
  }
  shape.element = problem.q.dtype() == DType::bf16 ? AttentionElement::bf16 : AttentionElement::f16;
  shape.batch = problem.q.dim(0);
  shape.heads = problem.q.dim(2);
  shape.key_heads = problem.k.dim(2);
  shape.head_dim = problem.q.dim(3);
  shape.scale = problem.scale;
  if (problem.cached_rows.defined()) shape.cached_rows = problem.cached_rows.data<std::int32_t>();
  return {};
}

}  // namespace

TranslatedProblem translate(const AttentionProblem& problem) {
  TranslatedProblem result;
  AttentionShape common;
  result.reason = translate_operands(problem, common);
  if (!result.reason.empty()) return result;
  const std::vector<TokenRun> query_runs =
      resolved_query_runs(problem.mask, problem.q.dim(1), problem.k.dim(1));
  const std::vector<TokenRun> key_runs = resolved_key_runs(problem.mask, problem.k.dim(1));
  const auto of_one_sequence = [&](const std::vector<TokenRun>& runs) {
    return std::ranges::all_of(
        runs, [&](const TokenRun& run) { return run.sequence == query_runs.front().sequence; });
  };
  const MaskRule rule(problem.mask);
  const bool single = of_one_sequence(query_runs) && of_one_sequence(key_runs);
  result.reason = single ? translate_sequence(rule, query_runs, key_runs, common, result)
                         : translate_packed(rule, query_runs, key_runs, common, result);
  return result;
}

AttentionStrides strides_of(const Tensor& tensor) {
  return {.batch = tensor.strides()[0], .token = tensor.strides()[1], .head = tensor.strides()[2]};
}

bool has_aligned_rows(const Tensor& tensor) {
  constexpr std::int64_t kElements = 8;
  if (reinterpret_cast<std::uintptr_t>(tensor.raw()) % 16 != 0) return false;
  for (int i = 0; i < 3; ++i) {
    if (tensor.dim(i) > 1 && tensor.strides()[i] % kElements != 0) return false;
  }
  return true;
}

}  // namespace portolan::cuda
