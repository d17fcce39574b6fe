// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "apps/attention_command.hpp"
#include "apps/attention_file.hpp"
#include "apps/collective_run.hpp"
#include "apps/json_text.hpp"
#include "attention/attention.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"
#include "core/safetensors_writer.hpp"

namespace portolan {
namespace {

std::vector<SafetensorsTensor> output_tensors(const AttentionRequest& request,
                                              const AttentionFile& file) {
  std::vector<SafetensorsTensor> tensors{{"o", DType::f32, file.query_shape()},
                                         {"lse", DType::f32, file.log_sum_exp_shape()}};
  if (request.backward) {
    tensors.push_back({"dq", DType::f32, file.query_shape()});
    tensors.push_back({"dk", DType::f32, file.key_shape()});
    tensors.push_back({"dv", DType::f32, file.key_shape()});
  }
  return tensors;
}

AttentionProblem read_problem(const AttentionRequest& request, const AttentionFile& file,
                              DType dtype, Device device) {
  const double scale =
      request.scale.value_or(1.0 / std::sqrt(static_cast<double>(file.extents().head_dim)));
  return {.q = file.read("q", dtype, device),
          .k = file.read("k", dtype, device),
          .v = file.read("v", dtype, device),
          .mask = file.mask(),
          .scale = static_cast<float>(scale)};
}

nlohmann::ordered_json to_json(const AttentionChoice& choice) {
  nlohmann::ordered_json refusals = nlohmann::ordered_json::array();
  for (const auto& [method, reason] : choice.refusals) {
    refusals.push_back({{"method", name_of(method)}, {"reason", reason}});
  }
  return {{"method", name_of(choice.method)},
          {"device", name_of(choice.device)},
          {"workspace_bytes", choice.workspace_bytes},
          {"passed_over", std::move(refusals)}};
}

/// The kernels of the passes that were asked for.
std::vector<AttentionChoice> choices(const AttentionRequest& request,
                                     const AttentionProblem& problem) {
  std::vector<AttentionChoice> all{
      attention_choice(problem, AttentionPass::forward, request.method)};
  if (request.backward) {
    all.push_back(attention_choice(problem, AttentionPass::backward, request.method));
  }
  return all;
}

void print_line(const std::vector<AttentionChoice>& choices) {
  std::string line;
  for (const AttentionChoice& choice : choices) {
    line += fmt::format("{}{}", line.empty() ? "" : "; ", choice.to_string());
  }
  fmt::print(stderr, "attention {}\n", line);
}

void print_document(const std::vector<AttentionChoice>& choices) {
  nlohmann::ordered_json document;
  for (const AttentionChoice& choice : choices) {
    document[std::string(name_of(choice.pass))] = to_json(choice);
  }
  fmt::print("{}", json_text(document));
}

void write(SafetensorsWriter& writer, const char* name, const Tensor& host) {
  writer.append(name, {host.raw(), host.bytes()});
}

void compute(const AttentionRequest& request, const AttentionFile& file, Device device) {
  const DType dtype = request.common.dtype.value_or(file.dtype());
  const AttentionExtents& extents = file.extents();
  const AttentionProblem problem = read_problem(request, file, dtype, device);
  const std::vector<AttentionChoice> chosen = choices(request, problem);
  SafetensorsWriter writer(request.out, output_tensors(request, file));
  if (!request.common.quiet) print_line(chosen);
  const Tensor out = Tensor::empty(problem.q.shape(), DType::f32, device);
  const Tensor log_sum_exp =
      Tensor::empty({extents.batch, extents.heads, extents.query_tokens}, DType::f32, device);
  attention_forward(problem, out, log_sum_exp, request.method);
  write(writer, "o", file.in_file_order(out));
  write(writer, "lse", ops::to_host(log_sum_exp));
  if (request.backward) {
    const AttentionGradients gradients{
        .grad_out = file.read("do", dtype, device),
        .log_sum_exp = log_sum_exp,
        .delta = Tensor::empty(log_sum_exp.shape(), DType::f32, device),
        .dq = Tensor::empty(problem.q.shape(), DType::f32, device),
        .dk = Tensor::empty(problem.k.shape(), DType::f32, device),
        .dv = Tensor::empty(problem.k.shape(), DType::f32, device)};
    attention_delta(out, gradients.grad_out, gradients.delta);
    attention_backward(problem, gradients, request.method);
    write(writer, "dq", file.in_file_order(gradients.dq));
    write(writer, "dk", file.in_file_order(gradients.dk));
    write(writer, "dv", file.in_file_order(gradients.dv));
  }
  writer.finish();
  if (request.common.json) print_document(chosen);
}

}  // namespace

void run_attention(const AttentionRequest& request) {
  require(request.method != AttentionMethod::window || request.window > 0,
          "--method window needs --window");
  const AttentionFile file(request);
  run_collectively(runtime_options(request.common), [&](Runtime& runtime) {
    // One kernel runs on one rank: several are a mistake, told as elsewhere.
    static_cast<void>(choose_layout(request.common, runtime.world().size()));
    compute(request, file, runtime.device());
  });
}

}  // namespace portolan
