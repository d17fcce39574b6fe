// SPDX-License-Identifier: Apache-2.0
#include "parallel/plan.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/printable.hpp"
#include "core/shape_format.hpp"
#include "core/weight.hpp"

namespace portolan {
namespace {

constexpr std::array<std::pair<ShardStyle, std::string_view>, 4> kStyleNames{
    {{ShardStyle::replicate, "replicate"},
     {ShardStyle::column, "column"},
     {ShardStyle::row, "row"},
     {ShardStyle::vocabulary, "vocabulary"}}};

/// A compiled regular expression that must match a whole string.
class Pattern {
 public:
  explicit Pattern(const std::string& text) : text_(text) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                              PCRE2_ANCHORED | PCRE2_ENDANCHORED, &error, &offset, nullptr));
    if (code_ == nullptr) {
      throw UsageError(fmt::format("plan pattern '{}' is not a regular expression: {} at offset {}",
                                   text, message_of(error), offset));
    }
    match_.reset(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  }

  /// Throws UsageError if the expression takes too long to tell.
  [[nodiscard]] bool matches(const std::string& name) const {
    const int result = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()),
                                   name.size(), 0, 0, match_.get(), nullptr);
    if (result < 0 && result != PCRE2_ERROR_NOMATCH) {
      throw UsageError(fmt::format("plan pattern '{}' cannot be matched against '{}': {}", text_,
                                   name, message_of(result)));
    }
    return result >= 0;
  }

 private:
  static std::string message_of(int error) {
    std::array<PCRE2_UCHAR, 160> reason{};
    pcre2_get_error_message(error, reason.data(), reason.size());
    return reinterpret_cast<const char*>(reason.data());
  }

  struct Deleter {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };
  std::string text_;
  std::unique_ptr<pcre2_code, Deleter> code_;
  std::unique_ptr<pcre2_match_data, Deleter> match_;
};

PlannedParameter place(const PlanParameter& parameter, const PlanRule& rule, const PlanAxes& axes,
                       int ranks) {
  const Shape& shape = parameter.shape;
  const std::int64_t columns = shape.rank() > 1 ? shape[1] : 1;
  PlannedParameter planned{parameter, rule.style, rule.axis};
  if (planned.tensor.empty()) {
    planned.tensor = planned.name;
    planned.tensor_shape = planned.shape;
  }
  const ShardRange whole{0, shape[0], 0, columns};
  planned.ranges.assign(static_cast<std::size_t>(ranks), whole);
  if (rule.style == ShardStyle::replicate) return planned;

  const auto axis = axes.find(rule.axis);
  require(axis != axes.end(), "plan pattern '{}' deals along '{}', which this model does not have",
          rule.pattern, rule.axis);
  require(rule.style != ShardStyle::row || shape.rank() == 2,
          "plan pattern '{}' deals input features, but {} {} has none", rule.pattern,
          parameter.name, shape);
  require(axis->second.ranges.size() == planned.ranges.size(),
          "axis '{}' is dealt to {} ranks, the plan has {}", rule.axis, axis->second.ranges.size(),
          ranks);
  const std::int64_t extent = rule.style == ShardStyle::row ? columns : shape[0];
  std::int64_t dealt = 0;
  for (std::size_t rank = 0; rank < planned.ranges.size(); ++rank) {
    const auto [begin, end] = axis->second.ranges[rank];
    const std::int64_t first = begin * axis->second.unit_size;
    const std::int64_t last = end * axis->second.unit_size;
    dealt = std::max(dealt, last);
    ShardRange& range = planned.ranges[rank];
    if (rule.style == ShardStyle::row) {
      range.column_begin = first;
      range.column_end = last;
    } else {
      range.row_begin = first;
      range.row_end = last;
    }
  }
  // What no rank holds would be missing from the sums.
  require(dealt == extent, "plan pattern '{}' deals the {} features of axis '{}', but {} {} has {}",
          rule.pattern, dealt, rule.axis, parameter.name, shape, extent);
  return planned;
}

}  // namespace

std::string_view name_of(ShardStyle style) {
  for (const auto& [candidate, name] : kStyleNames) {
    if (candidate == style) return name;
  }
  return "unknown";
}

ResolvedPlan::ResolvedPlan(std::vector<PlannedParameter> parameters,
                           std::vector<std::string> unused_patterns)
    : parameters_(std::move(parameters)), unused_patterns_(std::move(unused_patterns)) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) index_.emplace(parameters_[i].name, i);
}

const PlannedParameter* ResolvedPlan::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &parameters_[found->second];
}

const PlannedParameter& ResolvedPlan::at(std::string_view name) const {
  const PlannedParameter* found = find(name);
  require(found != nullptr, "the plan has no parameter '{}'", name);
  return *found;
}

std::int64_t ResolvedPlan::elements(int rank) const {
  std::int64_t elements = 0;
  for (const PlannedParameter& parameter : parameters_) {
    const ShardRange& range = parameter.ranges[static_cast<std::size_t>(rank)];
    elements += range.rows() * range.columns();
  }
  return elements;
}

ResolvedPlan resolve_plan(const std::vector<PlanRule>& rules,
                          const std::vector<PlanParameter>& parameters, const PlanAxes& axes,
                          int ranks) {
  std::vector<Pattern> patterns;
  patterns.reserve(rules.size());
  for (const PlanRule& rule : rules) patterns.emplace_back(rule.pattern);
  std::vector<bool> used(rules.size(), false);
  std::vector<PlannedParameter> planned;
  planned.reserve(parameters.size());
  const PlanRule replicated;
  for (const PlanParameter& parameter : parameters) {
    const PlanRule* chosen = &replicated;
    for (std::size_t i = 0; i < rules.size(); ++i) {
      if (!patterns[i].matches(parameter.name)) continue;
      used[i] = true;
      chosen = &rules[i];
      break;
    }
    planned.push_back(place(parameter, *chosen, axes, ranks));
  }
  std::vector<std::string> unused;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    if (!used[i]) unused.push_back(rules[i].pattern);
  }
  require(rules.empty() || unused.size() < rules.size(),
          "plan pattern '{}' matches no parameter of this model, nor does any other of the plan",
          rules.empty() ? "" : rules.front().pattern);
  return ResolvedPlan(std::move(planned), std::move(unused));
}

std::optional<std::string> first_unmatched_pattern(const std::vector<PlanRule>& rules,
                                                   const std::vector<std::string>& names) {
  for (const PlanRule& rule : rules) {
    const Pattern pattern(rule.pattern);
    const auto matches = [&](const std::string& name) { return pattern.matches(name); };
    if (std::ranges::none_of(names, matches)) return rule.pattern;
  }
  return std::nullopt;
}

std::vector<PlanRule> default_tensor_parallel_rules() {
  const std::string llama = R"(model\.layers\.\d+\.)";
  const std::string gpt = R"(transformer\.h\.\d+\.)";
  const std::string encoder = R"((roberta|bert)\.encoder\.layer\.\d+\.)";
  const std::string linear = R"(\.(weight|bias))";  // the bias of dealt outputs is dealt with them
  return {
      // One pattern for both ends, so that it also fits models that tie them.
      {R"((model\.embed_tokens|transformer\.wte|lm_head)\.weight)", ShardStyle::vocabulary,
       "vocabulary"},
      {R"((roberta|bert)\.embeddings\.word_embeddings\.weight)", ShardStyle::vocabulary,
       "vocabulary"},
      {R"((lm_head|cls\.predictions)\.(decoder\.weight|(decoder\.)?bias))", ShardStyle::vocabulary,
       "vocabulary"},
      {llama + R"(self_attn\.q_proj)" + linear, ShardStyle::column, "query_heads"},
      {llama + R"(self_attn\.(k|v)_proj)" + linear, ShardStyle::column, "key_value_heads"},
      {llama + R"(self_attn\.o_proj\.weight)", ShardStyle::row, "query_heads"},
      {llama + R"(mlp\.(gate|up)_proj)" + linear, ShardStyle::column, "intermediate"},
      {llama + R"(mlp\.down_proj\.weight)", ShardStyle::row, "intermediate"},
      {gpt + R"(attn\.c_attn)" + linear + R"(\[query\])", ShardStyle::column, "query_heads"},
      {gpt + R"(attn\.c_attn)" + linear + R"(\[(key|value)\])", ShardStyle::column,
       "key_value_heads"},
      {gpt + R"(attn\.c_attn)" + linear + R"(\[heads\])", ShardStyle::column, "fused_heads"},
      {gpt + R"(attn\.c_proj\.weight)", ShardStyle::row, "query_heads"},
      {gpt + R"(mlp\.c_fc)" + linear, ShardStyle::column, "intermediate"},
      {gpt + R"(mlp\.c_proj\.weight)", ShardStyle::row, "intermediate"},
      {encoder + R"(attention\.self\.query)" + linear, ShardStyle::column, "query_heads"},
      {encoder + R"(attention\.self\.(key|value))" + linear, ShardStyle::column, "key_value_heads"},
      {encoder + R"(attention\.output\.dense\.weight)", ShardStyle::row, "query_heads"},
      {encoder + R"(intermediate\.dense)" + linear, ShardStyle::column, "intermediate"},
      {encoder + R"(output\.dense\.weight)", ShardStyle::row, "intermediate"},
  };
}

std::vector<PlanRule> read_plan_rules(const std::string& path) {
  const nlohmann::json document = read_json_file(path);
  std::vector<PlanRule> rules;
  for (const JsonObject& entry : JsonObject(document, printable_path(path)).objects("rules")) {
    const std::string style = entry.text("style");
    const auto known =
        std::ranges::find(kStyleNames, style, &std::pair<ShardStyle, std::string_view>::second);
    if (known == kStyleNames.end()) entry.fail("style", "replicate, column, row or vocabulary");
    rules.push_back({entry.text("pattern"), known->first,
                     entry.has("axis") ? entry.text("axis") : std::string()});
  }
  return rules;
}

PlanAxis plan_axis(const Partition& partition, std::int64_t unit_size) {
  PlanAxis axis{unit_size, {}};
  for (int part = 0; part < partition.parts(); ++part) {
    axis.ranges.emplace_back(partition.offset(part), partition.offset(part + 1));
  }
  return axis;
}

PlanAxis key_value_axis(const Partition& query_heads, std::int64_t query_head_count,
                        std::int64_t key_value_head_count, std::int64_t head_dim) {
  const std::int64_t group = query_head_count / key_value_head_count;
  PlanAxis axis{head_dim, {}};
  for (int part = 0; part < query_heads.parts(); ++part) {
    const std::int64_t begin = query_heads.offset(part);
    const std::int64_t end = query_heads.offset(part + 1);
    axis.ranges.emplace_back(begin / group, end == begin ? begin / group : (end - 1) / group + 1);
  }
  return axis;
}

Partition feature_partition(std::int64_t features, int ranks) {
  constexpr std::int64_t kEnoughPerRank = 1024;
  const std::int64_t unit = features / ranks >= kEnoughPerRank ? kPanelWidth : 1;
  return Partition::even(features, ranks, unit);
}

}  // namespace portolan
