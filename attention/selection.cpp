// SPDX-License-Identifier: Apache-2.0
#include "attention/selection.hpp"

#include "core/error.hpp"
#include "core/shape_format.hpp"

namespace portolan {
namespace {

std::string text_of(const std::vector<AttentionChoice::Refusal>& refusals) {
  std::string text;
  for (const auto& [method, reason] : refusals) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", name_of(method), reason);
  }
  return text;
}

/// The first kernel of the problem's device, and of `method` if given, that serves the problem;
/// null if none does. Those before it say why not.
template <typename Kernel>
const Kernel* find(std::span<const std::unique_ptr<Kernel>> kernels,
                   const AttentionProblem& problem, std::optional<AttentionMethod> method,
                   std::vector<AttentionChoice::Refusal>& refusals) {
  for (const auto& kernel : kernels) {
    if (kernel->device() != problem.q.device().kind) continue;
    if (method && kernel->method() != *method) continue;
    std::string reason = kernel->unsupported_reason(problem);
    if (reason.empty()) return kernel.get();
    refusals.push_back({kernel->method(), std::move(reason)});
  }
  return nullptr;
}

[[noreturn]] void refuse(const AttentionProblem& problem, AttentionPass pass,
                         std::optional<AttentionMethod> method,
                         const std::vector<AttentionChoice::Refusal>& refusals) {
  throw UnsupportedError(
      fmt::format("no {}attention kernel of device '{}' serves the {} pass of q {} {} ({})",
                  method ? fmt::format("{} ", name_of(*method)) : "",
                  name_of(problem.q.device().kind), name_of(pass), name_of(problem.q.dtype()),
                  problem.q.shape(), refusals.empty() ? "none is registered" : text_of(refusals)));
}

template <typename Kernel>
const Kernel& select(std::span<const std::unique_ptr<Kernel>> kernels, AttentionPass pass,
                     const AttentionProblem& problem, std::optional<AttentionMethod> method,
                     std::vector<AttentionChoice::Refusal>& refusals) {
  const Kernel* kernel = find(kernels, problem, method, refusals);
  if (kernel == nullptr) refuse(problem, pass, method, refusals);
  return *kernel;
}

}  // namespace

const AttentionForwardKernel& select_attention_forward(const AttentionProblem& problem,
                                                       std::optional<AttentionMethod> method) {
  std::vector<AttentionChoice::Refusal> refusals;
  return select(attention_forward_kernels(), AttentionPass::forward, problem, method, refusals);
}

const AttentionBackwardKernel& select_attention_backward(const AttentionProblem& problem,
                                                         std::optional<AttentionMethod> method) {
  std::vector<AttentionChoice::Refusal> refusals;
  return select(attention_backward_kernels(), AttentionPass::backward, problem, method, refusals);
}

AttentionChoice attention_choice(const AttentionProblem& problem, AttentionPass pass,
                                 std::optional<AttentionMethod> method) {
  AttentionChoice choice;
  choice.pass = pass;
  choice.by_name = method.has_value();
  const auto fill = [&](const AttentionKernel& kernel) {
    choice.device = kernel.device();
    choice.method = kernel.method();
    choice.workspace_bytes = kernel.workspace_bytes(problem);
  };
  if (pass == AttentionPass::forward) {
    fill(select(attention_forward_kernels(), pass, problem, method, choice.refusals));
  } else {
    fill(select(attention_backward_kernels(), pass, problem, method, choice.refusals));
  }
  return choice;
}

std::string AttentionChoice::to_string() const {
  const std::string why = by_name ? "asked for" : "the first that serves the problem";
  const std::string others =
      refusals.empty() ? "" : fmt::format("; passed over: {}", text_of(refusals));
  return fmt::format("{}: {} on {} ({}{})", name_of(pass), name_of(method), name_of(device), why,
                     others);
}

}  // namespace portolan
