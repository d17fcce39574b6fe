// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "attention/attention.hpp"
#include "core/backend.hpp"
#include "core/json_file.hpp"
#include "core/safetensors.hpp"
#include "tests/unit/attention_testing.hpp"
#include "tests/unit/checksums.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan::testing_support {
namespace {

struct Stored {
  Shape shape;
  std::vector<double> values;
};

/// One case of another framework, its tensors in the engine's order.
class GoldenCase {
 public:
  explicit GoldenCase(const nlohmann::json& entry)
      : entry_(entry),
        file_(portolan::testing::data_path("attention/" + entry.at("file").get<std::string>())) {}

  [[nodiscard]] std::string name() const { return entry_.at("name").get<std::string>(); }
  [[nodiscard]] bool packed() const { return entry_.at("layout") == "packed"; }
  [[nodiscard]] bool has_window() const { return entry_.at("window") != 0; }
  [[nodiscard]] bool has_blocks() const { return entry_.contains("block"); }
  [[nodiscard]] bool has_large_scores() const { return name() == "causal_large_scores"; }
  [[nodiscard]] double tolerance() const { return has_large_scores() ? 2e-3 : 1e-5; }
  [[nodiscard]] double gradient_tolerance() const { return has_large_scores() ? 2e-3 : 5e-5; }

  /// [batch, heads, tokens, head_dim] or [tokens, heads, head_dim] as [B, S, H, D]; lse as [B, H,
  /// S].
  [[nodiscard]] Stored read(const std::string& tensor) const {
    const SafetensorsEntry& entry = file_.at(tensor);
    const std::vector<std::int64_t>& s = entry.shape;
    std::vector<float> stored(static_cast<std::size_t>(entry.elements()));
    file_.read(entry, stored.data(), DType::f32);
    if (tensor == "lse") {
      return {packed() ? Shape{1, s[0], s[1]} : Shape{s[0], s[1], s[2]},
              {stored.begin(), stored.end()}};
    }
    if (packed()) return {{1, s[0], s[1], s[2]}, {stored.begin(), stored.end()}};
    Stored result{{s[0], s[2], s[1], s[3]}, {}};
    for (std::int64_t b = 0; b < s[0]; ++b) {
      for (std::int64_t t = 0; t < s[2]; ++t) {
        for (std::int64_t h = 0; h < s[1]; ++h) {
          const float* row = &stored[static_cast<std::size_t>(((b * s[1] + h) * s[2] + t) * s[3])];
          result.values.insert(result.values.end(), row, row + s[3]);
        }
      }
    }
    return result;
  }

  [[nodiscard]] Tensor upload(const std::string& tensor, Device device) const {
    const Stored stored = read(tensor);
    const Tensor result = Tensor::empty(stored.shape, DType::f32, device);
    set_values(result, stored.values);
    return result;
  }

  [[nodiscard]] AttentionProblem problem(Device device) const {
    AttentionProblem problem{.q = upload("q", device),
                             .k = upload("k", device),
                             .v = upload("v", device),
                             .mask = {},
                             .scale = entry_.at("scale").get<float>()};
    problem.mask.causal = entry_.at("causal").get<bool>();
    problem.mask.window = entry_.at("window").get<std::int64_t>();
    if (packed()) add_sequences(problem.mask);
    if (has_blocks()) problem.mask.blocks = block_map();
    return problem;
  }

  /// The backward pass from the stored results of the forward pass.
  [[nodiscard]] AttentionGradients gradients(const AttentionProblem& problem) const {
    const Device device = problem.q.device();
    const Stored out = read("o");
    const Stored grad_out = read("do");
    AttentionGradients gradients{.grad_out = upload("do", device),
                                 .log_sum_exp = upload("lse", device),
                                 .delta = Tensor::empty(read("lse").shape, DType::f32, device),
                                 .dq = Tensor::empty(problem.q.shape(), DType::f32, device),
                                 .dk = Tensor::empty(problem.k.shape(), DType::f32, device),
                                 .dv = Tensor::empty(problem.v.shape(), DType::f32, device)};
    const Shape& s = out.shape;
    std::vector<double> delta(static_cast<std::size_t>(s[0] * s[1] * s[2]));
    for (std::size_t i = 0; i < out.values.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i) / s[3];
      const std::int64_t head = row % s[2];
      const std::int64_t token = row / s[2] % s[1];
      const std::int64_t entry = row / s[2] / s[1];
      delta[static_cast<std::size_t>((entry * s[2] + head) * s[1] + token)] +=
          out.values[i] * grad_out.values[i];
    }
    set_values(gradients.delta, delta);
    return gradients;
  }

 private:
  [[nodiscard]] std::vector<std::int32_t> read_offsets(const std::string& tensor) const {
    std::vector<std::int32_t> offsets(static_cast<std::size_t>(file_.at(tensor).elements()));
    file_.read(file_.at(tensor), offsets.data(), DType::i32);
    return offsets;
  }

  void add_sequences(AttentionMask& mask) const {
    const std::vector<std::int32_t> queries = read_offsets("cu_seqlens_q");
    const std::vector<std::int32_t> keys = read_offsets("cu_seqlens_k");
    for (std::size_t i = 0; i + 1 < queries.size(); ++i) {
      const std::int64_t query_tokens = queries[i + 1] - queries[i];
      const std::int64_t key_tokens = keys[i + 1] - keys[i];
      const auto sequence = static_cast<std::int64_t>(i);
      mask.query_runs.push_back({key_tokens - query_tokens, query_tokens, sequence});
      mask.key_runs.push_back({0, key_tokens, sequence});
    }
  }

  [[nodiscard]] std::shared_ptr<const BlockMap> block_map() const {
    const SafetensorsEntry& map = file_.at("block_map");
    std::vector<std::uint8_t> flags(static_cast<std::size_t>(map.elements()));
    file_.read(map, flags.data(), DType::u8);
    const nlohmann::json& block = entry_.at("block");
    return std::make_shared<const BlockMap>(
        block_map_from_flags(map.shape[0], map.shape[1], map.shape[2], block[0].get<std::int64_t>(),
                             block[1].get<std::int64_t>(), flags.data()));
  }

  nlohmann::json entry_;
  SafetensorsFile file_;
};

std::vector<std::unique_ptr<GoldenCase>> golden_cases() {
  const nlohmann::json index = read_json_file(portolan::testing::data_path("attention/cases.json"));
  std::vector<std::unique_ptr<GoldenCase>> cases;
  for (const nlohmann::json& entry : index.at("cases")) {
    cases.push_back(std::make_unique<GoldenCase>(entry));
  }
  return cases;
}

/// The cases that the kernels of a device and method served, so that none is passed over in
/// silence.
using Served = std::map<std::string, std::set<std::string>>;

std::string name_of_kernel(DeviceKind device, AttentionMethod method) {
  return fmt::format("{} {}", name_of(device), name_of(method));
}
std::string name_of_kernel(const AttentionKernel& kernel) {
  return name_of_kernel(kernel.device(), kernel.method());
}

/// Calls function(case, kernel, problem) for every kernel that serves the case.
template <typename Kernel, typename Function>
Served for_each_served(std::span<const std::unique_ptr<Kernel>> kernels, const Function& function) {
  Served served;
  for (const auto& golden : golden_cases()) {
    for (const auto& kernel : kernels) {
      const Device device{kernel->device(), 0};
      const AttentionProblem problem = golden->problem(device);
      if (!kernel->unsupported_reason(problem).empty()) continue;
      SCOPED_TRACE(golden->name() + " on " + name_of_kernel(*kernel));
      function(*golden, *kernel, problem);
      served[name_of_kernel(*kernel)].insert(golden->name());
    }
  }
  return served;
}

struct ForwardResult {
  Tensor out;
  Tensor log_sum_exp;
};

ForwardResult run_forward(const AttentionForwardKernel& kernel, const AttentionProblem& problem) {
  const Shape& s = problem.q.shape();
  const Device device = problem.q.device();
  ForwardResult result{Tensor::empty(s, DType::f32, device),
                       Tensor::empty({s[0], s[2], s[1]}, DType::f32, device)};
  kernel.forward(problem, result.out, result.log_sum_exp);
  return result;
}

void expect_near(const Tensor& tensor, const Stored& expected, double tolerance,
                 const std::string& what) {
  const std::vector<double> found = values_of(tensor);
  ASSERT_EQ(found.size(), expected.values.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i] == expected.values[i]) continue;  // infinities
    ASSERT_LE(std::abs(found[i] - expected.values[i]), tolerance)
        << what << " element " << i << ": " << found[i] << " should be " << expected.values[i];
  }
}

/// What each method is for: the others take what they like beyond it.
bool must_serve(AttentionMethod method, const GoldenCase& golden) {
  switch (method) {
    case AttentionMethod::standard:
      return true;
    case AttentionMethod::memory_efficient:
    case AttentionMethod::flash:
      return !golden.has_blocks();
    case AttentionMethod::window:
      return golden.has_window();
    case AttentionMethod::block_sparse:
      return golden.has_blocks();
  }
  return false;
}

void expect_served(const Served& served) {
  const auto cases = golden_cases();
  EXPECT_EQ(cases.size(), 30U);
  for (const auto& backend : registered_backends()) {
    const DeviceKind device = backend->device().kind;
    for (const AttentionMethod method :
         {AttentionMethod::standard, AttentionMethod::memory_efficient, AttentionMethod::flash,
          AttentionMethod::window, AttentionMethod::block_sparse}) {
      for (const auto& golden : cases) {
        if (!must_serve(method, *golden)) continue;
        const auto names = served.find(name_of_kernel(device, method));
        EXPECT_TRUE(names != served.end() && names->second.contains(golden->name()))
            << name_of_kernel(device, method) << " did not serve " << golden->name();
      }
    }
  }
}

TEST(AttentionGolden, EveryForwardKernelReproducesAnotherFramework) {
  const Served served =
      for_each_served(attention_forward_kernels(), [](const GoldenCase& golden,
                                                      const AttentionForwardKernel& kernel,
                                                      const AttentionProblem& problem) {
        const ForwardResult result = run_forward(kernel, problem);
        expect_near(result.out, golden.read("o"), golden.tolerance(), "o");
        expect_near(result.log_sum_exp, golden.read("lse"), golden.tolerance(), "lse");
        const ForwardResult again = run_forward(kernel, problem);
        EXPECT_EQ(checksum_of(again.out), checksum_of(result.out));
        EXPECT_EQ(checksum_of(again.log_sum_exp), checksum_of(result.log_sum_exp));
      });
  expect_served(served);
}

TEST(AttentionGolden, EveryBackwardKernelReproducesAnotherFramework) {
  const Served served =
      for_each_served(attention_backward_kernels(),
                      [](const GoldenCase& golden, const AttentionBackwardKernel& kernel,
                         const AttentionProblem& problem) {
                        const AttentionGradients first = golden.gradients(problem);
                        kernel.backward(problem, first);
                        const double tolerance = golden.gradient_tolerance();
                        expect_near(first.dq, golden.read("dq"), tolerance, "dq");
                        expect_near(first.dk, golden.read("dk"), tolerance, "dk");
                        expect_near(first.dv, golden.read("dv"), tolerance, "dv");
                        const AttentionGradients again = golden.gradients(problem);
                        kernel.backward(problem, again);
                        EXPECT_EQ(checksum_of(again.dq), checksum_of(first.dq));
                        EXPECT_EQ(checksum_of(again.dk), checksum_of(first.dk));
                        EXPECT_EQ(checksum_of(again.dv), checksum_of(first.dv));
                      });
  expect_served(served);
}

TEST(AttentionGolden, NumberOfThreadsDoesNotChangeABit) {
  expect_same_bits("attention", {2, 3, 4}, 100);
}

}  // namespace

std::string attention_checksums() {
  std::string lines;
  const auto add = [&lines](const GoldenCase& golden, const AttentionKernel& kernel,
                            AttentionPass pass, std::initializer_list<const Tensor*> results) {
    std::uint64_t checksum = kChecksumStart;
    for (const Tensor* result : results) checksum = checksum_of(*result, checksum);
    lines += fmt::format("{} {} {} {:016x}\n", golden.name(), name_of_kernel(kernel), name_of(pass),
                         checksum);
  };
  for_each_served(attention_forward_kernels(),
                  [&](const GoldenCase& golden, const AttentionForwardKernel& kernel,
                      const AttentionProblem& problem) {
                    const ForwardResult result = run_forward(kernel, problem);
                    add(golden, kernel, AttentionPass::forward, {&result.out, &result.log_sum_exp});
                  });
  for_each_served(attention_backward_kernels(), [&](const GoldenCase& golden,
                                                    const AttentionBackwardKernel& kernel,
                                                    const AttentionProblem& problem) {
    const AttentionGradients result = golden.gradients(problem);
    kernel.backward(problem, result);
    add(golden, kernel, AttentionPass::backward, {&result.dq, &result.dk, &result.dv});
  });
  return lines;
}

}  // namespace portolan::testing_support
