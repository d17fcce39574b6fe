// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.hpp"
#include "parallel/partition.hpp"

/// Tensor-parallel plans are data: a table of patterns on parameter names. Resolving one against a
/// model's parameters is pure arithmetic, so it is checked, printed and tested without processes.
namespace portolan {

/// How a parameter is laid out over the tensor-parallel ranks.
enum class ShardStyle {
  replicate,   ///< whole on every rank
  column,      ///< output features (dimension 0) dealt; the product's output stays sharded
  row,         ///< input features (dimension 1) dealt; the product's output is a partial sum
  vocabulary,  ///< rows of an embedding table or output head dealt: looking up gives a partial sum,
               ///< logits stay sharded
};
[[nodiscard]] std::string_view name_of(ShardStyle style);

/// One line of a plan. `axis` names the model dimension that is dealt ("query_heads",
/// "key_value_heads", "intermediate", "vocabulary"), so that all parameters along it are cut at the
/// same places. It must be empty for replicate.
struct PlanRule {
  std::string pattern;  ///< Perl-compatible regular expression, must match the whole name
  ShardStyle style = ShardStyle::replicate;
  std::string axis;
};

/// A model dimension that can be dealt: `units` of `unit_size` consecutive features.
struct PlanAxis {
  std::int64_t unit_size = 1;
  /// Per rank [begin, end) in units. Usually a partition; key/value heads that several ranks need
  /// overlap.
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges;
};
using PlanAxes = std::map<std::string, PlanAxis, std::less<>>;

/// What ranks can be dealt: a tensor of a checkpoint, or rows of it that are dealt by themselves
/// (the queries of a fused product). Shape [features] or [out, in].
struct PlanParameter {
  std::string name;
  Shape shape;
  /// Used between blocks, where sequence parallelism deals tokens: norms, what is added to their
  /// sums, position tables.
  bool between_blocks = false;
  /// The checkpoint's tensor of which it is rows [first_row, first_row + shape[0]), and that
  /// tensor's shape. Empty: it is the whole tensor of its own name.
  std::string tensor = {};
  Shape tensor_shape = {};
  std::int64_t first_row = 0;
};

/// The block of a parameter that one rank holds; columns are [0, 1) for vectors.
struct ShardRange {
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  std::int64_t column_begin = 0;
  std::int64_t column_end = 0;

  [[nodiscard]] std::int64_t rows() const noexcept { return row_end - row_begin; }
  [[nodiscard]] std::int64_t columns() const noexcept { return column_end - column_begin; }
  friend bool operator==(const ShardRange&, const ShardRange&) = default;
};

struct PlannedParameter : PlanParameter {
  ShardStyle style = ShardStyle::replicate;
  std::string axis;
  std::vector<ShardRange> ranges = {};  ///< one per rank, in rows of `shape`
};

/// A plan applied to a model.
class ResolvedPlan {
 public:
  explicit ResolvedPlan(std::vector<PlannedParameter> parameters,
                        std::vector<std::string> unused_patterns = {});
  [[nodiscard]] const std::vector<PlannedParameter>& parameters() const noexcept {
    return parameters_;
  }
  /// Throws UsageError if the model has no such parameter.
  [[nodiscard]] const PlannedParameter& at(std::string_view name) const;
  /// Null if the model has no such parameter.
  [[nodiscard]] const PlannedParameter* find(std::string_view name) const;
  /// Elements that a rank holds.
  [[nodiscard]] std::int64_t elements(int rank) const;
  /// Patterns of the rules that match nothing: those of other architectures, or mistakes.
  [[nodiscard]] const std::vector<std::string>& unused_patterns() const noexcept {
    return unused_patterns_;
  }

 private:
  std::vector<PlannedParameter> parameters_;
  std::vector<std::string> unused_patterns_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

/// The first rule that matches a name decides; parameters that no rule names are replicated. One
/// table may serve several architectures. Throws UsageError if no rule matches anything, for a rule
/// that is not a regular expression, an unknown axis, and an axis that does not fit a parameter's
/// extent.
[[nodiscard]] ResolvedPlan resolve_plan(const std::vector<PlanRule>& rules,
                                        const std::vector<PlanParameter>& parameters,
                                        const PlanAxes& axes, int ranks);

/// The first of the rules' patterns that matches none of `names`. Throws UsageError for a rule that
/// is not a regular expression.
[[nodiscard]] std::optional<std::string> first_unmatched_pattern(
    const std::vector<PlanRule>& rules, const std::vector<std::string>& names);

/// The table for the decoder and encoder blocks of every built-in architecture, under their Hugging
/// Face names. Parts of fused tensors are "NAME[query]", "NAME[key]", "NAME[value]", "NAME[heads]".
[[nodiscard]] std::vector<PlanRule> default_tensor_parallel_rules();

/// A plan file: JSON {"rules": [{"pattern": "...", "style": "column", "axis": "query_heads"},
/// ...]}. Throws InputError naming file and field.
[[nodiscard]] std::vector<PlanRule> read_plan_rules(const std::string& path);

/// Ranges of a plain partition.
[[nodiscard]] PlanAxis plan_axis(const Partition& partition, std::int64_t unit_size = 1);

/// Key/value heads that each rank's query heads read, given the dealing of the query heads.
[[nodiscard]] PlanAxis key_value_axis(const Partition& query_heads, std::int64_t query_head_count,
                                      std::int64_t key_value_head_count, std::int64_t head_dim);

/// Deals features of a wide dimension. Shares are whole panels of 64 once the imbalance that costs
/// is small (64 of at least 1024 features per rank), because a cut panel is padded; else they are
/// even.
[[nodiscard]] Partition feature_partition(std::int64_t features, int ranks);

}  // namespace portolan
