// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "attention/cuda/decode_attention.hpp"
#include "attention/cuda/flash_attention.hpp"
#include "tests/cuda/cases.hpp"
#include "tests/cuda/device_array.cuh"
#include "tests/cuda/operand.cuh"
#include "tests/cuda/reference.cuh"

/// Runs every attention kernel of this GPU on random operands and compares with f64: one line for
/// each case, exit code 1 if one fails.
namespace portolan::cuda_testing {
namespace {

using cuda::AttentionArchitecture;
using cuda::AttentionBackwardArguments;
using cuda::AttentionElement;
using cuda::AttentionForwardArguments;
using cuda::AttentionOutput;
using cuda::AttentionShape;

/// What f32_sum adds to.
constexpr float kBefore = 0.25F;

std::string name_of(AttentionArchitecture architecture) {
  return architecture == AttentionArchitecture::sm80 ? "sm80" : "sm90";
}

/// ||found - expected|| / ||expected||, of expected values that cancel to 0 as if they were 1e-3;
/// NaN if a value was not written.
double relative_error(const std::vector<double>& found, const std::vector<double>& expected,
                      double before) {
  double error = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(found[i] - before - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  const double least = 1e-6 * static_cast<double>(expected.size());
  return expected.empty() ? 0.0 : std::sqrt(error / std::max(norm, least));
}

/// Largest difference; NaN if a row was not written, infinite if one is infinite in one only.
double largest_difference(const std::vector<float>& found, const std::vector<double>& expected) {
  double largest = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (found[i] == expected[i]) continue;  // both -infinity
    const double difference = std::abs(found[i] - expected[i]);
    if (!(difference <= largest)) largest = difference;
    if (std::isnan(difference)) return difference;
  }
  return largest;
}

/// One line of output, and whether everything in it is right.
class Verdict {
 public:
  void error(const char* name, double value, double tolerance) {
    char text[64];
    std::snprintf(text, sizeof text, "  %s %.1e", name, value);
    text_ += text;
    if (!(value <= tolerance)) complain(std::string(name) + " is wrong");
  }
  void complain(const std::string& text) {
    if (!text.empty()) complaints_ += (complaints_.empty() ? "" : "; ") + text;
  }
  [[nodiscard]] bool print(const std::string& kernel, const Case& c) const {
    std::printf("%s %-14s %-46s%s%s%s\n", complaints_.empty() ? "ok  " : "FAIL", kernel.c_str(),
                c.text().c_str(), text_.c_str(), complaints_.empty() ? "" : "  <- ",
                complaints_.c_str());
    std::fflush(stdout);
    return complaints_.empty();
  }

 private:
  std::string text_;
  std::string complaints_;
};

/// A case's operands and expected results, with which each kernel is run.
class Check {
 public:
  Check(const Case& c, std::uint64_t seed)
      : case_(c),
        query_offsets_(offsets_of(c.query_lengths)),
        key_offsets_(offsets_of(c.key_lengths)),
        cached_rows_(c.cached_rows),
        q_(operand(true)),
        k_(operand(false)),
        v_(operand(false)),
        grad_out_(operand(true)),
        shape_(c.shape()) {
    q_.fill_random(2.0F, seed);
    k_.fill_random(2.0F, seed + 1);
    v_.fill_random(1.0F, seed + 2);
    grad_out_.fill_random(1.0F, seed + 3);
    if (c.packed()) {
      shape_.query_offsets = query_offsets_.data();
      shape_.key_offsets = key_offsets_.data();
    }
    if (!c.cached_rows.empty()) {
      shape_.cached_rows = cached_rows_.data();
      for (std::int64_t entry = 0; entry < c.batch; ++entry) {
        for (Operand* operand : {&k_, &v_}) {
          operand->poison_tokens(entry, 0, c.first_key(entry));
          operand->poison_tokens(entry, c.end_key(entry), c.key_tokens);
        }
      }
    }
    expected_ =
        reference_attention(operands(), c.entries() * c.query_rows(), c.entries() * c.key_rows());
  }

  /// False if the kernel is wrong; true, and nothing printed, if it does not serve the case.
  [[nodiscard]] bool forward(AttentionArchitecture architecture) {
    if (cuda::forward_unsupported_reason(architecture, shape_) != nullptr) return true;
    if (case_.output == AttentionOutput::f32_sum) return true;
    return run_forward(
        name_of(architecture) + " forward", cuda::forward_workspace_bytes(architecture, shape_),
        [&](const AttentionForwardArguments& arguments, void* workspace) {
          return cuda::attention_forward(architecture, arguments, workspace, nullptr);
        });
  }
  [[nodiscard]] bool decode() {
    if (const char* reason = cuda::decode_unsupported_reason(shape_)) {
      std::printf("FAIL decode %s: %s\n", case_.text().c_str(), reason);
      return false;
    }
    return run_forward("decode", cuda::decode_workspace_bytes(shape_),
                       [&](const AttentionForwardArguments& arguments, void* workspace) {
                         return cuda::attention_decode(arguments, workspace, nullptr);
                       });
  }
  /// The same, recorded with no rows in the cache and started when there are; true, and nothing
  /// printed, for other cases.
  [[nodiscard]] bool decode_recorded() {
    if (case_.cached_rows.empty()) return true;
    return run_forward("decode recorded", cuda::decode_workspace_bytes(shape_),
                       [&](const AttentionForwardArguments& arguments, void* workspace) {
                         return record_and_start(arguments, workspace);
                       });
  }
  [[nodiscard]] bool backward(AttentionArchitecture architecture) {
    if (cuda::backward_unsupported_reason(architecture, shape_) != nullptr) return true;
    const bool f32 = case_.output != AttentionOutput::element;
    Operand dq = operand(true, f32);
    Operand dk = operand(false, f32);
    Operand dv = operand(false, f32);
    const std::vector<float> rows(expected_.log_sum_exp.begin(), expected_.log_sum_exp.end());
    const std::vector<float> deltas(expected_.delta.begin(), expected_.delta.end());
    const DeviceArray<float> log_sum_exp(rows);
    const DeviceArray<float> delta(deltas);
    AttentionBackwardArguments arguments = operands();
    arguments.log_sum_exp = log_sum_exp.data();
    arguments.delta = delta.data();
    arguments.log_sum_exp_stride = case_.query_rows();
    arguments.output = case_.output;

    const std::size_t bytes = cuda::backward_workspace_bytes(architecture, shape_);
    Verdict verdict;
    std::vector<std::vector<std::uint8_t>> first;
    for (int run = 0; run < 2; ++run) {
      for (Operand* result : {&dq, &dk, &dv}) {
        result->poison();
        if (case_.output == AttentionOutput::f32_sum) result->fill_f32(kBefore);
      }
      arguments.dq = dq.data();
      arguments.dk = dk.data();
      arguments.dv = dv.data();
      arguments.dq_strides = dq.strides();
      arguments.dk_strides = dk.strides();
      arguments.dv_strides = dv.strides();
      DeviceArray<std::uint8_t> workspace(bytes);
      workspace.poison();
      if (!launched(verdict,
                    cuda::attention_backward(architecture, arguments, workspace.data(), nullptr))) {
        break;
      }
      const std::vector<std::vector<std::uint8_t>> found{dq.download(), dk.download(),
                                                         dv.download()};
      if (run == 1) {
        if (found != first) verdict.complain("the second run gives other bits");
        continue;
      }
      first = found;
      const double before = case_.output == AttentionOutput::f32_sum ? kBefore : 0.0;
      verdict.error("dq", relative_error(dq.values(found[0]), expected_.dq, before), tolerance());
      verdict.error("dk", relative_error(dk.values(found[1]), expected_.dk, before), tolerance());
      verdict.error("dv", relative_error(dv.values(found[2]), expected_.dv, before), tolerance());
      verdict.complain(dq.damage(found[0]));
      verdict.complain(dk.damage(found[1]));
      verdict.complain(dv.damage(found[2]));
    }
    return verdict.print(name_of(architecture) + " backward", case_);
  }

 private:
  [[nodiscard]] Operand operand(bool queries, bool f32 = false) const {
    return {case_.entries(),
            queries ? case_.query_rows() : case_.key_rows(),
            queries ? case_.heads : case_.key_heads,
            case_.head_dim,
            case_.element,
            f32};
  }
  /// Rounding weights, gradients of scores and results makes about 2e-3 and 2.5e-4.
  [[nodiscard]] double tolerance() const {
    return case_.element == AttentionElement::bf16 ? 5e-3 : 7e-4;
  }
  [[nodiscard]] AttentionBackwardArguments operands() const {
    return {.shape = shape_,
            .q = q_.data(),
            .k = k_.data(),
            .v = v_.data(),
            .grad_out = grad_out_.data(),
            .q_strides = q_.strides(),
            .k_strides = k_.strides(),
            .v_strides = v_.strides(),
            .grad_out_strides = grad_out_.strides()};
  }
  [[nodiscard]] static bool launched(Verdict& verdict, cudaError_t status) {
    if (status == cudaSuccess) status = cudaDeviceSynchronize();
    if (status == cudaSuccess) return true;
    verdict.complain(std::string("CUDA: ") + cudaGetErrorString(status));
    return false;
  }

  [[nodiscard]] cudaError_t record_and_start(const AttentionForwardArguments& arguments,
                                             void* workspace) const {
    check(cudaMemset(cached_rows_.data(), 0, cached_rows_.bytes()), "emptying the cache");
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t recorded = nullptr;
    check(cudaStreamCreate(&stream), "making a stream");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "starting to record");
    const cudaError_t launched = cuda::attention_decode(arguments, workspace, stream);
    check(cudaStreamEndCapture(stream, &graph), "recording");
    check(cudaGraphInstantiateWithFlags(&recorded, graph, 0), "making a graph");
    check(cudaMemcpy(cached_rows_.data(), case_.cached_rows.data(), cached_rows_.bytes(),
                     cudaMemcpyHostToDevice),
          "filling the cache");
    const cudaError_t started = cudaGraphLaunch(recorded, stream);
    check(cudaStreamSynchronize(stream), "running a graph");
    check(cudaGraphExecDestroy(recorded), "ending a graph");
    check(cudaGraphDestroy(graph), "ending a graph");
    check(cudaStreamDestroy(stream), "ending a stream");
    return launched == cudaSuccess ? started : launched;
  }

  template <typename Launch>
  [[nodiscard]] bool run_forward(const std::string& kernel, std::size_t workspace_bytes,
                                 const Launch& launch) {
    Operand out = operand(true, case_.output == AttentionOutput::f32);
    DeviceArray<float> log_sum_exp(expected_.log_sum_exp.size());
    Verdict verdict;
    std::vector<std::uint8_t> first;
    std::vector<float> first_rows;
    for (int run = 0; run < 2; ++run) {
      out.poison();
      log_sum_exp.poison();
      DeviceArray<std::uint8_t> workspace(workspace_bytes);
      workspace.poison();
      const AttentionForwardArguments arguments{.shape = shape_,
                                                .q = q_.data(),
                                                .k = k_.data(),
                                                .v = v_.data(),
                                                .out = out.data(),
                                                .output = case_.output,
                                                .q_strides = q_.strides(),
                                                .k_strides = k_.strides(),
                                                .v_strides = v_.strides(),
                                                .out_strides = out.strides(),
                                                .log_sum_exp = log_sum_exp.data(),
                                                .log_sum_exp_stride = case_.query_rows()};
      if (!launched(verdict, launch(arguments, workspace.data()))) break;
      const std::vector<std::uint8_t> found = out.download();
      const std::vector<float> rows = log_sum_exp.download();
      if (run == 1) {
        const bool same_rows =
            std::memcmp(rows.data(), first_rows.data(), rows.size() * sizeof(float)) == 0;
        if (found != first || !same_rows) verdict.complain("the second run gives other bits");
        continue;
      }
      first = found;
      first_rows = rows;
      verdict.error("out", relative_error(out.values(found), expected_.out, 0.0), tolerance());
      verdict.error("lse", largest_difference(rows, expected_.log_sum_exp), 1e-4);
      verdict.complain(out.damage(found));
    }
    return verdict.print(kernel, case_);
  }

  Case case_;
  DeviceArray<std::int32_t> query_offsets_;
  DeviceArray<std::int32_t> key_offsets_;
  DeviceArray<std::int32_t> cached_rows_;
  Operand q_;
  Operand k_;
  Operand v_;
  Operand grad_out_;
  AttentionShape shape_;
  ReferenceResults expected_;
};

constexpr char kUsage[] =
    R"(Usage: check [--small] [--filter TEXT] [--kernels sm80|sm90] [--seed N]

Compares the attention kernels of this GPU with f64: a line for each case.

  --small          the cases for a memory checker only
  --filter TEXT    only cases whose line has TEXT in what describes the case, such as d64 or bf16
  --kernels NAME   only the kernels sm80_*, and decoding, or only sm90_* (default: all that the GPU
                   can run)
  --seed N         of the random operands (default: the time)
  --help           this text

Exit codes: 0 all is right, 1 something failed or no case was run, 2 bad usage.
)";

struct Options {
  bool small = false;
  bool help = false;
  std::string filter;
  std::string kernels;
  std::uint64_t seed = 0;
};

std::optional<Options> parse(int count, char** arguments) {
  Options options;
  options.seed =
      static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--small") {
      options.small = true;
    } else if (argument == "--filter" && i + 1 < count) {
      options.filter = arguments[++i];
    } else if (argument == "--kernels" && i + 1 < count) {
      options.kernels = arguments[++i];
    } else if (argument == "--seed" && i + 1 < count) {
      options.seed = std::strtoull(arguments[++i], nullptr, 10);
    } else if (argument == "--help") {
      options.help = true;
    } else {
      return std::nullopt;
    }
  }
  if (!options.kernels.empty() && options.kernels != "sm80" && options.kernels != "sm90") {
    return std::nullopt;
  }
  return options;
}

int run(const Options& options) {
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "asking for the GPU");
  check(cudaGetDeviceProperties(&properties, device), "asking for the GPU's properties");
  std::printf("%s, compute capability %d.%d, seed %llu\n", properties.name, properties.major,
              properties.minor, static_cast<unsigned long long>(options.seed));
  const auto wanted = [&](AttentionArchitecture architecture) {
    return options.kernels.empty() || options.kernels == name_of(architecture);
  };
  const bool sm80 = wanted(AttentionArchitecture::sm80);
  std::vector<AttentionArchitecture> architectures;
  if (sm80) architectures.push_back(AttentionArchitecture::sm80);
  if (properties.major == 9 && properties.minor == 0 && wanted(AttentionArchitecture::sm90)) {
    architectures.push_back(AttentionArchitecture::sm90);
  }
  int failed = 0;
  int cases = 0;
  std::uint64_t seed = options.seed;
  const auto skipped = [&](const Case& c) {
    return (options.small && !c.small) ||
           (!options.filter.empty() && c.text().find(options.filter) == std::string::npos);
  };
  const auto count = [&](bool passed) {
    if (!passed) ++failed;
    // Some errors end every later call: no use to go on.
    if (cudaGetLastError() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess) {
      std::printf("the GPU's context is lost: later cases were not run\n");
      std::exit(1);
    }
  };
  for (const Case& c : attention_cases()) {
    if (skipped(c) || architectures.empty()) continue;
    ++cases;
    Check one(c, seed += 16);
    for (const AttentionArchitecture architecture : architectures) {
      count(one.forward(architecture));
      count(one.backward(architecture));
    }
  }
  for (const Case& c : decode_cases()) {
    if (skipped(c) || !sm80) continue;
    ++cases;
    Check one(c, seed += 16);
    count(one.decode());
    count(one.decode_recorded());
  }
  std::printf("%d cases, %d failures\n", cases, failed);
  return failed == 0 && cases > 0 ? 0 : 1;
}

}  // namespace
}  // namespace portolan::cuda_testing

int main(int count, char** arguments) {
  const auto options = portolan::cuda_testing::parse(count, arguments);
  if (!options || options->help) {
    std::fputs(portolan::cuda_testing::kUsage, options ? stdout : stderr);
    return options ? 0 : 2;
  }
  return portolan::cuda_testing::run(*options);
}
