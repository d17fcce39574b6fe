// SPDX-License-Identifier: Apache-2.0
#include "backends/openmp/onednn_matmul.hpp"

#include <functional>
#include <string_view>
#include <unordered_map>

#include "backends/compat/onednn.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

using Description = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;

dnnl::memory::data_type data_type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return dnnl::memory::data_type::f32;
    case DType::bf16:
      return dnnl::memory::data_type::bf16;
    default:
      throw UnsupportedError(
          fmt::format("oneDNN products are f32 or bf16, not {}", name_of(dtype)));
  }
}

/// The [in, out] operand. The tags spell core/panels.hpp's panels: blocks of 64 outputs (b)
/// outermost, in each the inputs (a) in blocks of 16, outputs side by side, 16-bit inputs in pairs.
Description weight_description(const OneDnnProblem& problem) {
  const dnnl::memory::dims dims = {problem.in_features, problem.out_features};
  const auto type = data_type_of(problem.weight_dtype);
  if (problem.layout == WeightLayout::plain) {
    return Description(dims, type, problem.weight_transposed ? Tag::ab : Tag::ba);
  }
  return Description(dims, type,
                     problem.weight_dtype == DType::f32 ? Tag::BA16a64b : Tag::BA16a64b2a);
}

Description dense(std::int64_t rows, std::int64_t columns, DType dtype, Tag tag = Tag::ab) {
  return Description({rows, columns}, data_type_of(dtype), tag);
}

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const OneDnnProblem& problem) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (problem.accumulate) {
    dnnl::post_ops operations;
    operations.append_sum(1.0F);
    attributes.set_post_ops(operations);
  }
  return compat::make_matmul_description(
      engine,
      dense(problem.rows, problem.in_features, problem.x_dtype,
            problem.x_transposed ? Tag::ba : Tag::ab),
      weight_description(problem),
      problem.bias_dtype ? dense(1, problem.out_features, *problem.bias_dtype) : Description(),
      dense(problem.rows, problem.out_features, problem.out_dtype), attributes);
}

/// Name of the implementation for panels of a representative size; empty if there is none.
std::string panel_implementation(const dnnl::engine& engine, DType dtype) {
  OneDnnProblem problem;
  problem.rows = problem.out_features = problem.in_features = 256;
  problem.x_dtype = problem.weight_dtype = problem.out_dtype = dtype;
  try {
    return describe(engine, problem).impl_info_str();
  } catch (const dnnl::error&) {
    return {};
  }
}

bool is_fast(std::string_view implementation, DType dtype) {
  if (!implementation.starts_with("brg")) return false;
  if (dtype == DType::f32) return true;
  // Without the CPU's own bf16 products the emulation is slower than computing in f32.
  for (const std::string_view isa : {"bf16", "amx", "avx10", "fp16", "vnni_2"}) {
    if (implementation.find(isa) != std::string_view::npos) return true;
  }
  return false;
}

struct ProblemHash {
  std::size_t operator()(const OneDnnProblem& problem) const noexcept {
    std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a over 64-bit words
    for (const std::int64_t word :
         {problem.rows, problem.out_features, problem.in_features,
          static_cast<std::int64_t>(problem.x_dtype),
          static_cast<std::int64_t>(problem.weight_dtype),
          static_cast<std::int64_t>(problem.out_dtype), static_cast<std::int64_t>(problem.layout),
          static_cast<std::int64_t>(problem.x_transposed),
          static_cast<std::int64_t>(problem.weight_transposed),
          static_cast<std::int64_t>(problem.accumulate),
          problem.bias_dtype ? 1 + static_cast<std::int64_t>(*problem.bias_dtype) : 0}) {
      hash = (hash ^ static_cast<std::uint64_t>(word)) * 1099511628211ULL;
      hash ^= hash >> 32;
    }
    return hash;
  }
};

/// A primitive with its argument list, whose memory handles are set at each call.
struct Product {
  Product(const dnnl::engine& engine, const OneDnnProblem& problem)
      : Product(engine, problem, describe(engine, problem)) {}

  Product(const dnnl::engine& engine, const OneDnnProblem& problem,
          const dnnl::matmul::primitive_desc& description)
      : implementation(description.impl_info_str()),
        primitive(description),
        x(description.src_desc(), engine, DNNL_MEMORY_NONE),
        weight(description.weights_desc(), engine, DNNL_MEMORY_NONE),
        out(description.dst_desc(), engine, DNNL_MEMORY_NONE),
        bias(problem.bias_dtype ? dnnl::memory(dense(1, problem.out_features, *problem.bias_dtype),
                                               engine, DNNL_MEMORY_NONE)
                                : dnnl::memory()),
        scratch(description.scratchpad_desc(), engine, DNNL_MEMORY_NONE),
        scratch_bytes(description.scratchpad_desc().get_size()),
        arguments({{DNNL_ARG_SRC, x},
                   {DNNL_ARG_WEIGHTS, weight},
                   {DNNL_ARG_DST, out},
                   {DNNL_ARG_SCRATCHPAD, scratch}}) {
    if (problem.bias_dtype) arguments.emplace(DNNL_ARG_BIAS, bias);
  }

  std::string implementation;
  dnnl::matmul primitive;
  dnnl::memory x;
  dnnl::memory weight;
  dnnl::memory out;
  dnnl::memory bias;
  dnnl::memory scratch;
  std::size_t scratch_bytes;
  std::unordered_map<int, dnnl::memory> arguments;  // handles to those above
};

/// Beyond this many shapes (a server sees every prompt length) the cache starts afresh.
constexpr std::size_t kMaximumProducts = 1024;

}  // namespace

struct OneDnnMatmul::State {
  explicit State(CachingAllocator& memory)
      : allocator(memory),
        engine(dnnl::engine::kind::cpu, 0),
        stream(engine),
        f32_panels(panel_implementation(engine, DType::f32)),
        bf16_panels(panel_implementation(engine, DType::bf16)) {}

  Product& product(const OneDnnProblem& problem) {
    const auto found = products.find(problem);
    if (found != products.end()) return found->second;
    if (products.size() >= kMaximumProducts) products.clear();
    try {
      return products.try_emplace(problem, engine, problem).first->second;
    } catch (const dnnl::error& error) {
      throw UnsupportedError(
          fmt::format("oneDNN has no product of [{}, {}] by [{}, {}] in {} and {}: {}",
                      problem.rows, problem.in_features, problem.in_features, problem.out_features,
                      name_of(problem.x_dtype), name_of(problem.weight_dtype), error.what()));
    }
  }

  CachingAllocator& allocator;
  dnnl::engine engine;
  dnnl::stream stream;
  std::string f32_panels;
  std::string bf16_panels;
  std::unordered_map<OneDnnProblem, Product, ProblemHash> products;
};

OneDnnMatmul::OneDnnMatmul(CachingAllocator& allocator)
    : state_(std::make_unique<State>(allocator)) {}

OneDnnMatmul::~OneDnnMatmul() = default;

bool OneDnnMatmul::has_fast_panels(DType dtype) const {
  switch (dtype) {
    case DType::f32:
      return is_fast(state_->f32_panels, dtype);
    case DType::bf16:
      return is_fast(state_->bf16_panels, dtype);
    default:
      return false;
  }
}

void OneDnnMatmul::multiply(const OneDnnProblem& problem, const void* x, const void* weight,
                            void* out, const void* bias) {
  Product& product = state_->product(problem);
  BlockReference scratch;
  if (product.scratch_bytes > 0) {
    scratch = state_->allocator.allocate(product.scratch_bytes);
    product.scratch.set_data_handle(scratch.get()->data());
  }
  product.x.set_data_handle(const_cast<void*>(x));
  product.weight.set_data_handle(const_cast<void*>(weight));
  product.out.set_data_handle(out);
  if (bias != nullptr) product.bias.set_data_handle(const_cast<void*>(bias));
  product.primitive.execute(state_->stream, product.arguments);
  state_->stream.wait();
}

std::string OneDnnMatmul::implementation(const OneDnnProblem& problem) {
  return state_->product(problem).implementation;
}

std::string OneDnnMatmul::description() const {
  return fmt::format("oneDNN {} (f32 {}, bf16 {})", compat::onednn_version(),
                     is_fast(state_->f32_panels, DType::f32) ? state_->f32_panels : "none",
                     is_fast(state_->bf16_panels, DType::bf16) ? state_->bf16_panels : "as f32");
}

}  // namespace portolan
