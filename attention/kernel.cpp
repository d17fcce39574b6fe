// SPDX-License-Identifier: Apache-2.0
#include "attention/kernel.hpp"

#include <array>
#include <utility>
#include <vector>

#include "core/error.hpp"

namespace portolan {
namespace {

struct Kernels {
  std::vector<std::unique_ptr<AttentionForwardKernel>> forward;
  std::vector<std::unique_ptr<AttentionBackwardKernel>> backward;
};

// Kernels stand on backends, which exist once per process, and so does their list.
Kernels& registry() {
  static Kernels kernels;
  return kernels;
}

constexpr std::array kMethods{AttentionMethod::standard, AttentionMethod::memory_efficient,
                              AttentionMethod::flash, AttentionMethod::window,
                              AttentionMethod::block_sparse};

}  // namespace

std::string_view name_of(AttentionMethod method) {
  switch (method) {
    case AttentionMethod::standard:
      return "standard";
    case AttentionMethod::memory_efficient:
      return "memory-efficient";
    case AttentionMethod::flash:
      return "flash";
    case AttentionMethod::window:
      return "window";
    case AttentionMethod::block_sparse:
      return "block-sparse";
  }
  return "";
}

std::string_view name_of(AttentionPass pass) {
  return pass == AttentionPass::forward ? "forward" : "backward";
}

AttentionMethod attention_method_from_name(std::string_view name) {
  std::string names;
  for (const AttentionMethod method : kMethods) {
    if (name_of(method) == name) return method;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", name_of(method));
  }
  throw UsageError(fmt::format("unknown attention method '{}'; known are {}", name, names));
}

AttentionFeatures features_of(const AttentionProblem& problem) {
  AttentionFeatures features{.packing = false,
                             .padding = !problem.mask.key_ranges.empty(),
                             .blocks = problem.mask.blocks != nullptr,
                             .dropout = problem.dropout.probability > 0.0F,
                             .cached_rows = problem.cached_rows.defined()};
  for (const auto* runs : {&problem.mask.query_runs, &problem.mask.key_runs}) {
    for (const TokenRun& run : *runs) {
      features.packing = features.packing || run.sequence != 0;
    }
  }
  return features;
}

std::string unserved_feature(const AttentionProblem& problem, const AttentionFeatures& served) {
  const AttentionFeatures used = features_of(problem);
  if (used.packing && !served.packing) return "it takes no packed sequences";
  if (used.padding && !served.padding) return "it takes no padding";
  if (used.blocks && !served.blocks) return "it takes no block map";
  if (used.dropout && !served.dropout) return "it has no dropout";
  if (used.cached_rows && !served.cached_rows) return "it takes no cached rows";
  return {};
}

void register_attention_kernel(std::unique_ptr<AttentionForwardKernel> kernel) {
  registry().forward.push_back(std::move(kernel));
}

void register_attention_kernel(std::unique_ptr<AttentionBackwardKernel> kernel) {
  registry().backward.push_back(std::move(kernel));
}

void unregister_attention_kernels() { registry() = {}; }

std::span<const std::unique_ptr<AttentionForwardKernel>> attention_forward_kernels() {
  return registry().forward;
}

std::span<const std::unique_ptr<AttentionBackwardKernel>> attention_backward_kernels() {
  return registry().backward;
}

}  // namespace portolan
