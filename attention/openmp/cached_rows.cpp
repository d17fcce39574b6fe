// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/cached_rows.hpp"

#include "attention/mask.hpp"

namespace portolan::flash {
namespace {

KeyRange rows_of(const AttentionProblem& problem, std::int64_t entry) {
  return cached_rows_of(problem.cached_rows.data<std::int32_t>(), entry, problem.k.dim(1));
}

bool have_same_rows(const AttentionProblem& problem, std::int64_t a, std::int64_t b) {
  const KeyRange rows_a = rows_of(problem, a);
  const KeyRange rows_b = rows_of(problem, b);
  return rows_a.begin == rows_b.begin && rows_a.end == rows_b.end;
}

}  // namespace

std::vector<EntryRange> entries_of_one_problem(const AttentionProblem& problem) {
  const std::int64_t batch = problem.q.dim(0);
  if (!problem.cached_rows.defined()) return {{0, batch}};
  std::vector<EntryRange> result;
  for (std::int64_t entry = 0; entry < batch; ++entry) {
    const bool joins = entry > 0 && have_same_rows(problem, entry - 1, entry);
    if (!joins) result.push_back({entry, entry});
    result.back().end = entry + 1;
  }
  return result;
}

AttentionProblem without_cached_rows(const AttentionProblem& problem, const EntryRange& entries) {
  if (!problem.cached_rows.defined()) return problem;
  const KeyRange rows = rows_of(problem, entries.begin);
  AttentionProblem result = problem;
  result.cached_rows = {};
  for (Tensor* tensor : {&result.q, &result.k, &result.v}) {
    *tensor = tensor->slice(0, entries.begin, entries.end);
  }
  result.k = result.k.slice(1, rows.begin, rows.end);
  result.v = result.v.slice(1, rows.begin, rows.end);
  return result;
}

}  // namespace portolan::flash
