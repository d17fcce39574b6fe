// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "attention/kernel.hpp"
#include "attention/problem.hpp"

/// Which kernel serves a problem, and why.
namespace portolan {

/// The kernel that serves the problem: the first registered for its device (and method, if given)
/// that supports it. Throws UnsupportedError with each candidate's reason.
[[nodiscard]] const AttentionForwardKernel& select_attention_forward(
    const AttentionProblem& problem, std::optional<AttentionMethod> method = {});
[[nodiscard]] const AttentionBackwardKernel& select_attention_backward(
    const AttentionProblem& problem, std::optional<AttentionMethod> method = {});

/// How the kernel of a pass was found, for people and records.
struct AttentionChoice {
  /// A kernel that was asked before the chosen one and refused.
  struct Refusal {
    AttentionMethod method = AttentionMethod::standard;
    std::string reason;
  };
  AttentionPass pass = AttentionPass::forward;
  DeviceKind device = DeviceKind::cpu;
  AttentionMethod method = AttentionMethod::standard;
  bool by_name = false;  ///< the method was asked for
  std::vector<Refusal> refusals = {};
  std::size_t workspace_bytes = 0;

  /// "forward: standard on cpu (the first that serves the problem; passed over: flash: it takes no
  /// block map)", one line.
  [[nodiscard]] std::string to_string() const;
};

/// What select_attention_forward or select_attention_backward does with the problem. Throws as they
/// do.
[[nodiscard]] AttentionChoice attention_choice(const AttentionProblem& problem, AttentionPass pass,
                                               std::optional<AttentionMethod> method = {});

}  // namespace portolan
