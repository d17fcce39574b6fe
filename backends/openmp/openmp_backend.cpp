// SPDX-License-Identifier: Apache-2.0
#include "backends/openmp/openmp_backend.hpp"

#include <unistd.h>

#include <cstring>
#include <vector>

#include "backends/compat/kokkos_runtime.hpp"
#include "backends/openmp/blocks.hpp"
#include "backends/openmp/general_product.hpp"
#include "backends/openmp/onednn_matmul.hpp"
#include "backends/openmp/panel_matmul.hpp"
#include "backends/openmp/quantized_matmul.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/openmp/training_operations.hpp"
#include "backends/portable/host_memory.hpp"
#include "backends/portable/portable_backend.hpp"
#include "core/log.hpp"

namespace portolan {
namespace {

/// Rows that go through scratch at a time: bounds its size, and is far above what a product needs
/// to reach its full rate.
constexpr std::int64_t kScratchRows = 512;

/// Results beyond this size will not be read from the cache: storing past it saves reading the
/// lines first.
std::size_t last_level_cache_bytes() {
  const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return bytes > 0 ? static_cast<std::size_t>(bytes) : std::size_t{32} << 20;
}

std::int64_t row_bytes(const Tensor& matrix) {
  return matrix.dim(1) * static_cast<std::int64_t>(size_of(matrix.dtype()));
}

class OpenMPBackend final : public HostBackend<Kokkos::OpenMP> {
 public:
  OpenMPBackend() : HostBackend({DeviceKind::cpu, 0}, host_memory_source()), onednn_(allocator()) {}

  [[nodiscard]] std::string description() const override {
    return fmt::format("Kokkos {} OpenMP, {}, Highway {}, {} threads", kokkos_version(),
                       onednn_.description(), simd::target_name(), concurrency());
  }

  [[nodiscard]] DType compute_dtype(DType dtype) const override {
    return onednn_.has_fast_panels(dtype) ? dtype : DType::f32;
  }

  void copy_bytes(void* destination, const void* source, std::size_t bytes,
                  Queue /*queue*/) override {
    openmp::for_blocks(space(), "Portolan::Transfer::copy", static_cast<std::int64_t>(bytes),
                       std::int64_t{1} << 20, [&](std::int64_t begin, std::int64_t end) {
                         std::memcpy(static_cast<std::byte*>(destination) + begin,
                                     static_cast<const std::byte*>(source) + begin,
                                     static_cast<std::size_t>(end - begin));
                       });
  }

  void copy(const Tensor& source, const Tensor& out) override {
    const auto rows = portable::strided_rows<2>(out.shape(), {&source.strides(), &out.strides()});
    if (rows.column_stride[0] != 1 || rows.column_stride[1] != 1) {
      HostBackend::copy(source, out);
      return;
    }
    simd::ConvertElements whole{.source_dtype = source.dtype(),
                                .out_dtype = out.dtype(),
                                .source = source.raw(),
                                .out = out.raw(),
                                .stream = false};
    const auto out_size = static_cast<std::int64_t>(size_of(out.dtype()));
    const auto source_size = static_cast<std::int64_t>(size_of(source.dtype()));
    if (rows.rows == 1) {
      std::int64_t count = rows.columns;
      whole.stream = source.dtype() != out.dtype() && exceeds_cache(out);
      if (source.dtype() == out.dtype() && exceeds_cache(out) && count * out_size % 4 == 0 &&
          reinterpret_cast<std::uintptr_t>(whole.source) % 4 == 0 &&
          reinterpret_cast<std::uintptr_t>(whole.out) % 4 == 0) {
        // Bits are bits: equal dtypes stream as 32-bit words.
        whole.source_dtype = whole.out_dtype = DType::f32;
        whole.stream = true;
        count = count * out_size / 4;
      }
      openmp::for_blocks(
          space(), "Portolan::Elementwise::copy", count,
          openmp::block_items(static_cast<std::int64_t>(size_of(whole.out_dtype))),
          [&](std::int64_t begin, std::int64_t end) { simd::convert(whole, begin, end); });
      return;
    }
    openmp::for_blocks(space(), "Portolan::Elementwise::copy", rows.rows,
                       openmp::block_items(rows.columns * out_size),
                       [&](std::int64_t begin, std::int64_t end) {
                         for (std::int64_t row = begin; row < end; ++row) {
                           simd::ConvertElements one = whole;
                           one.source = source.raw() + rows.offset(0, row) * source_size;
                           one.out = out.raw() + rows.offset(1, row) * out_size;
                           simd::convert(one, 0, rows.columns);
                         }
                       });
  }

  void sum(std::span<const Tensor> inputs, std::span<const Tensor> outs) override {
    std::vector<const void*> input_data;
    std::vector<void*> out_data;
    for (const Tensor& input : inputs) input_data.push_back(input.raw());
    bool in_place = false;
    for (const Tensor& out : outs) {
      out_data.push_back(out.raw());
      in_place |= std::find(input_data.begin(), input_data.end(), out.raw()) != input_data.end();
    }
    simd::SumElements arguments;
    arguments.dtype = outs[0].dtype();
    arguments.inputs = input_data.data();
    arguments.input_count = static_cast<int>(input_data.size());
    arguments.outs = out_data.data();
    arguments.out_count = static_cast<int>(out_data.size());
    arguments.stream = !in_place && exceeds_cache(outs[0]);
    openmp::for_blocks(
        space(), "Portolan::Elementwise::sum", outs[0].elements(),
        openmp::block_items(static_cast<std::int64_t>(size_of(outs[0].dtype()))),
        [&](std::int64_t begin, std::int64_t end) { simd::sum(arguments, begin, end); });
  }

  void random_uniform(const Tensor& out, RandomKey key, const MatrixBlock& block, float mean,
                      float scale) override {
    const simd::UniformElements arguments{.dtype = out.dtype(),
                                          .key = key,
                                          .mean = mean,
                                          .scale = scale,
                                          .stream = exceeds_cache(out)};
    const auto size = static_cast<std::int64_t>(size_of(out.dtype()));
    if (block.column_begin == 0 && out.dim(1) == block.columns && out.is_contiguous()) {
      // Whole rows are one run of the stream.
      const std::int64_t first = block.row_begin * block.columns;
      openmp::for_blocks(space(), "Portolan::Random::uniform", out.elements(),
                         openmp::block_items(size), [&](std::int64_t begin, std::int64_t end) {
                           simd::random_uniform(arguments, out.raw() + begin * size,
                                                static_cast<std::uint64_t>(first + begin),
                                                end - begin);
                         });
      return;
    }
    openmp::for_blocks(
        space(), "Portolan::Random::uniform", out.dim(0), openmp::block_items(row_bytes(out)),
        [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t row = begin; row < end; ++row) {
            const std::int64_t first = (block.row_begin + row) * block.columns + block.column_begin;
            simd::random_uniform(arguments, out.raw() + row * out.strides()[0] * size,
                                 static_cast<std::uint64_t>(first), out.dim(1));
          }
        });
  }

  void embedding(const Tensor& ids, const Tensor& table, std::int64_t first_row,
                 const Tensor& out) override {
    const auto size = static_cast<std::int64_t>(size_of(out.dtype()));
    const auto bytes = static_cast<std::size_t>(row_bytes(out));
    openmp::for_blocks(
        space(), "Portolan::Embedding::lookup", out.dim(0), openmp::block_items(row_bytes(out)),
        [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t row = begin; row < end; ++row) {
            const std::int64_t id = ids.data<std::int32_t>()[row * ids.strides()[0]] - first_row;
            std::byte* const to = out.raw() + row * out.strides()[0] * size;
            if (id >= 0 && id < table.dim(0)) {
              std::memcpy(to, table.raw() + id * table.strides()[0] * size, bytes);
            } else {
              std::memset(to, 0, bytes);
            }
          }
        });
  }

  void rms_norm(const Tensor& x, const Tensor& weight, float epsilon, const Tensor& out) override {
    norm("Portolan::Norm::rms_norm", x, nullptr, weight, epsilon, out);
  }

  void add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon,
                    const Tensor& out) override {
    norm("Portolan::Norm::add_rms_norm", x, &residual, weight, epsilon, out);
  }

  void rotary_embedding(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                        const Tensor& sines, bool inverse) override {
    simd::RotaryTokens arguments;
    arguments.dtype = x.dtype();
    arguments.x = x.raw();
    arguments.positions = positions.data<std::int32_t>();
    arguments.cosines = cosines.data<float>();
    arguments.sines = sines.data<float>();
    arguments.token_stride = x.strides()[0];
    arguments.head_stride = x.strides()[1];
    arguments.heads = x.dim(1);
    arguments.half = x.dim(2) / 2;
    arguments.positions_stride = positions.strides()[0];
    arguments.cosine_stride = cosines.strides()[0];
    arguments.sine_stride = sines.strides()[0];
    arguments.inverse = inverse;
    const auto token_bytes = x.dim(1) * x.dim(2) * static_cast<std::int64_t>(size_of(x.dtype()));
    openmp::for_blocks(space(), "Portolan::RotaryEmbedding::rotate", x.dim(0),
                       openmp::block_items(token_bytes), [&](std::int64_t begin, std::int64_t end) {
                         simd::rotary_embedding(arguments, begin, end);
                       });
  }

  void swiglu(const Tensor& gate, const Tensor& up, const Tensor& out) override {
    simd::SwigluRows arguments;
    arguments.dtype = gate.dtype();
    arguments.gate = gate.raw();
    arguments.up = up.raw();
    arguments.out = out.raw();
    arguments.gate_stride = gate.strides()[0];
    arguments.up_stride = up.strides()[0];
    arguments.out_stride = out.strides()[0];
    arguments.features = gate.dim(1);
    arguments.stream = out.raw() != gate.raw() && out.raw() != up.raw() && exceeds_cache(out);
    openmp::for_blocks(
        space(), "Portolan::Elementwise::swiglu", gate.dim(0), openmp::block_items(row_bytes(gate)),
        [&](std::int64_t begin, std::int64_t end) { simd::swiglu(arguments, begin, end); });
  }

  void add(const Tensor& x, const Tensor& y) override {
    if (!openmp::add(space(), x, y)) HostBackend::add(x, y);
  }
  void scale(const Tensor& x, float factor) override {
    if (!openmp::scale(space(), x, factor)) HostBackend::scale(x, factor);
  }
  void dropout(const Tensor& x, float probability, RandomKey key,
               const MatrixBlock& block) override {
    openmp::dropout(space(), x, probability, key, block);
  }
  void add_bias(const Tensor& x, const Tensor& bias) override {
    openmp::add_bias(space(), x, bias);
  }
  void embedding_backward(const Tensor& ids, const Tensor& grad_out, std::int64_t first_row,
                          const Tensor& grad_table) override {
    openmp::embedding_backward(space(), ids, grad_out, first_row, grad_table);
  }
  void rms_norm_backward(const Tensor& x, const Tensor& weight, float epsilon,
                         const Tensor& grad_out, const Tensor& grad_x, const Tensor& grad_weight,
                         bool accumulate_x) override {
    openmp::norm_backward(space(), allocator(), "Portolan::Norm::rms_norm_backward", x, weight,
                          epsilon, {grad_out, grad_x, grad_weight, nullptr, accumulate_x});
  }
  void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon,
                  const Tensor& out) override {
    openmp::layer_norm(space(), "Portolan::Norm::layer_norm", x, nullptr, nullptr, weight, bias,
                       epsilon, out);
  }
  void add_layer_norm(const Tensor& x, const Tensor& x_bias, const Tensor& residual,
                      const Tensor& weight, const Tensor& bias, float epsilon,
                      const Tensor& out) override {
    openmp::layer_norm(space(), "Portolan::Norm::add_layer_norm", x, &x_bias, &residual, weight,
                       bias, epsilon, out);
  }
  void layer_norm_backward(const Tensor& x, const Tensor& weight, float epsilon,
                           const Tensor& grad_out, const Tensor& grad_x, const Tensor& grad_weight,
                           const Tensor& grad_bias, bool accumulate_x) override {
    openmp::norm_backward(space(), allocator(), "Portolan::Norm::layer_norm_backward", x, weight,
                          epsilon, {grad_out, grad_x, grad_weight, &grad_bias, accumulate_x});
  }
  void swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& grad_out,
                       const Tensor& grad_gate, const Tensor& grad_up) override {
    openmp::swiglu_backward(space(), gate, up, grad_out, grad_gate, grad_up);
  }
  void gelu(const Tensor& x, const Tensor& out, GeluKind kind) override {
    openmp::gelu(space(), x, nullptr, out, kind);
  }
  void gelu_backward(const Tensor& x, const Tensor& grad_out, const Tensor& grad_x,
                     GeluKind kind) override {
    openmp::gelu(space(), x, &grad_out, grad_x, kind);
  }
  void softmax(const Tensor& x, const Tensor& out, const Tensor& log_sum_exp) override {
    openmp::softmax(space(), x, out, log_sum_exp);
  }
  void cross_entropy_rows(const Tensor& logits, const Tensor& labels, std::int64_t first_column,
                          std::int32_t ignore_label, const Tensor& maximum, const Tensor& sum,
                          const Tensor& target) override {
    openmp::cross_entropy_rows(space(), logits, labels, first_column, ignore_label, maximum, sum,
                               target);
  }
  void cross_entropy_backward(const Tensor& logits, const Tensor& labels, std::int64_t first_column,
                              std::int32_t ignore_label, const Tensor& log_sum_exp, float scale,
                              const Tensor& grad_logits) override {
    openmp::cross_entropy_backward(space(), logits, labels, first_column, ignore_label, log_sum_exp,
                                   scale, grad_logits);
  }
  void adamw(const Tensor& param, const Tensor& grad, const Tensor& first_moment,
             const Tensor& second_moment, const AdamWStep& step, const Tensor& copy) override {
    openmp::adamw(space(), param, grad, first_moment, second_moment, step, copy);
  }
  [[nodiscard]] double sum_of_squares(const Tensor& x) override {
    return openmp::sum_of_squares(space(), x);
  }

  void merge_attention(const Tensor& block_out, const Tensor& block_log_sum_exp, const Tensor& out,
                       const Tensor& log_sum_exp) override {
    const simd::MergeRows arguments{.block_out = block_out.data<float>(),
                                    .block_log_sum_exp = block_log_sum_exp.data<float>(),
                                    .out = out.data<float>(),
                                    .log_sum_exp = log_sum_exp.data<float>(),
                                    .tokens = out.dim(1),
                                    .heads = out.dim(2),
                                    .head_dim = out.dim(3)};
    openmp::for_blocks(space(), "Portolan::Attention::merge", out.dim(0) * out.dim(1) * out.dim(2),
                       openmp::block_items(out.dim(3) * static_cast<std::int64_t>(sizeof(float))),
                       [&](std::int64_t begin, std::int64_t end) {
                         simd::merge_attention(arguments, begin, end);
                       });
  }

  void attention_delta(const Tensor& out, const Tensor& grad_out, const Tensor& delta) override {
    const auto head_rows = [](const Tensor& tensor) {
      const Shape& strides = tensor.strides();
      return simd::HeadRows{tensor.raw(), tensor.dtype(), strides[0], strides[1], strides[2]};
    };
    const simd::DeltaRows arguments{.out = head_rows(out),
                                    .grad_out = head_rows(grad_out),
                                    .delta = delta.data<float>(),
                                    .delta_batch_stride = delta.strides()[0],
                                    .delta_head_stride = delta.strides()[1],
                                    .delta_token_stride = delta.strides()[2],
                                    .tokens = out.dim(1),
                                    .heads = out.dim(2),
                                    .head_dim = out.dim(3)};
    openmp::for_blocks(space(), "Portolan::Attention::delta", out.dim(0) * out.dim(1) * out.dim(2),
                       openmp::block_items(out.dim(3) * static_cast<std::int64_t>(sizeof(float))),
                       [&](std::int64_t begin, std::int64_t end) {
                         simd::attention_delta(arguments, begin, end);
                       });
  }

  [[nodiscard]] Weight allocate_packed(std::int64_t out_features, std::int64_t in_features,
                                       DType dtype) override {
    const DType computed = compute_dtype(dtype);
    if (computed != dtype) {
      log_once(fmt::format("products of {}", name_of(dtype)), LogLevel::warn,
               "this CPU has no fast {} products: computing them in {}", name_of(dtype),
               name_of(computed));
    }
    return HostBackend::allocate_packed(out_features, in_features, computed);
  }

  void pack_rows(const Tensor& rows, std::int64_t first_row, const Weight& weight) override {
    if (weight.is_quantized()) {
      openmp::quantize_rows(space(), rows, first_row, weight);
      return;
    }
    const std::int64_t bytes = panel_bytes(weight);
    const simd::PackPanels arguments{
        .source_dtype = rows.dtype(),
        .weight_dtype = weight.dtype(),
        .rows = rows.raw(),
        .panels = weight.storage().raw() + first_row / kPanelWidth * bytes,
        .row_stride = rows.strides()[0],
        .row_count = rows.dim(0),
        .in_features = weight.in_features()};
    openmp::for_blocks(
        space(), "Portolan::Matmul::pack", panel_count(rows.dim(0)), openmp::block_items(bytes),
        [&](std::int64_t begin, std::int64_t end) { simd::pack_panels(arguments, begin, end); });
  }

  void matmul(const Tensor& x, const Weight& weight, const Tensor& out, bool accumulate) override {
    if (weight.is_quantized()) {
      openmp::quantized_matmul(products(), x, weight, out, accumulate);
      return;
    }
    if (!is_fast(x, weight) || is_streamed(x, weight)) {
      openmp::panel_matmul(space(), allocator(), x, weight, out, accumulate);
      return;
    }
    const std::int64_t rows = x.dim(0);
    const bool direct = is_direct(x, weight) && is_direct_result(out, weight);
    const std::int64_t step = direct ? rows : kScratchRows;
    for (std::int64_t row = 0; row < rows; row += step) {
      const std::int64_t end = std::min(row + step, rows);
      multiply(x.slice(0, row, end), weight, out.slice(0, row, end), accumulate);
    }
  }

  void matmul_bias(const Tensor& x, const Weight& weight, const Tensor& bias,
                   const Tensor& out) override {
    const bool fast = is_fast(x, weight);
    const bool keeps_bias = bias.dtype() == out.dtype() || out.dtype() == DType::f32;
    if (fast && keeps_bias && is_streamed(x, weight)) {
      // Written first and added to, so that the sum is rounded once.
      const Tensor row = bias.view({1, out.dim(1)});
      for (std::int64_t i = 0; i < out.dim(0); ++i) copy(row, out.slice(0, i, i + 1));
      matmul(x, weight, out, true);
    } else if (fast && is_direct(x, weight) && is_direct_result(out, weight)) {
      // oneDNN adds the bias to tiles that are still in registers.
      multiply(x, weight, out, false, &bias);
    } else {
      HostBackend::matmul_bias(x, weight, bias, out);
    }
  }

  void product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
               const Tensor& out, bool accumulate) override {
    openmp::general_product(products(), a, transpose_a, b, transpose_b, out, accumulate);
  }

 private:
  [[nodiscard]] openmp::ProductContext products() { return {*this, space(), onednn_}; }

  [[nodiscard]] bool exceeds_cache(const Tensor& out) const {
    return out.bytes() > last_level_cache_;
  }

  void norm(const char* label, const Tensor& x, const Tensor* residual, const Tensor& weight,
            float epsilon, const Tensor& out) {
    simd::RmsNormRows arguments;
    arguments.dtype = x.dtype();
    arguments.weight_dtype = weight.dtype();
    arguments.x = x.raw();
    arguments.weight = weight.raw();
    arguments.out = out.raw();
    arguments.x_stride = x.strides()[0];
    arguments.out_stride = out.strides()[0];
    arguments.features = x.dim(1);
    arguments.epsilon = epsilon;
    if (residual != nullptr) {
      arguments.residual = residual->raw();
      arguments.residual_stride = residual->strides()[0];
    }
    arguments.stream = out.raw() != x.raw() && exceeds_cache(out);
    openmp::for_blocks(
        space(), label, x.dim(0), openmp::block_items(row_bytes(x)),
        [&](std::int64_t begin, std::int64_t end) { simd::rms_norm(arguments, begin, end); });
  }

  [[nodiscard]] Tensor scratch(const Shape& shape, DType dtype) {
    const auto bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
    return Tensor(allocator().allocate(bytes), 0, shape, dtype, device());
  }

  /// oneDNN's fast implementations take dense operands only, and the weight's dtype or an f32
  /// result: what is not so goes through scratch.
  [[nodiscard]] static bool is_direct(const Tensor& operand, const Weight& weight) {
    return operand.is_contiguous() && operand.dtype() == weight.dtype();
  }

  [[nodiscard]] static bool is_direct_result(const Tensor& out, const Weight& weight) {
    return is_direct(out, weight) || (out.is_contiguous() && out.dtype() == DType::f32);
  }

  [[nodiscard]] bool is_fast(const Tensor& x, const Weight& weight) const {
    if (weight.is_quantized()) return false;
    // x is never rounded: a weight in fewer bits, or in other 16 bits, is widened instead.
    const bool widens_weight = weight.dtype() != x.dtype() && weight.dtype() != DType::f32;
    const bool strided_weight =
        weight.layout() == WeightLayout::plain && !weight.storage().is_contiguous();
    return !widens_weight && !strided_weight && onednn_.has_fast_panels(weight.dtype());
  }

  /// Rows so few that a product takes as long as its weight from memory. Our kernel reads each
  /// panel from end to end, which every processor foresees; oneDNN's reads several at once, which
  /// Zen 4 does at half to three quarters of the rate. It is the faster one from three rows on.
  [[nodiscard]] static bool is_streamed(const Tensor& x, const Weight& weight) {
    constexpr std::int64_t kMostRows = 2;
    static const bool streams = simd::holds_panel_width();
    return streams && x.dim(0) <= kMostRows && weight.layout() == WeightLayout::panels;
  }

  /// `bias`, if not null, needs direct operands.
  void multiply(const Tensor& x, const Weight& weight, const Tensor& out, bool accumulate,
                const Tensor* bias = nullptr) {
    Tensor source = x;
    if (!is_direct(x, weight)) {
      source = scratch(x.shape(), weight.dtype());
      copy(x, source);
    }
    const bool direct = is_direct_result(out, weight);
    const Tensor target = direct ? out : scratch(out.shape(), DType::f32);

    OneDnnProblem problem;
    problem.rows = x.dim(0);
    problem.out_features = weight.out_features();
    problem.in_features = weight.in_features();
    problem.x_dtype = problem.weight_dtype = weight.dtype();
    problem.out_dtype = target.dtype();
    problem.layout = weight.layout();
    problem.accumulate = accumulate && direct;
    if (bias != nullptr) problem.bias_dtype = bias->dtype();
    onednn_.multiply(problem, source.raw(), weight.storage().raw(), target.raw(),
                     bias == nullptr ? nullptr : bias->raw());
    if (!direct) portable::store_product(space(), target, out, accumulate);
  }

  OneDnnMatmul onednn_;
  std::size_t last_level_cache_ = last_level_cache_bytes();
};

}  // namespace

std::unique_ptr<Backend> make_openmp_backend() { return std::make_unique<OpenMPBackend>(); }

}  // namespace portolan
