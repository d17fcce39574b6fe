// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/cublaslt_matmul.hpp"

#include <algorithm>

#include "backends/cuda/cuda_status.hpp"
#include "core/error.hpp"
#include "core/shape_format.hpp"

namespace portolan {
namespace {

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return CUDA_R_32F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    default:
      throw UnsupportedError(
          fmt::format("products are computed in f32, bf16 and f16, found {}", name_of(dtype)));
  }
}

/// Largest power of two that divides the address, up to what cuBLASLt asks for at most.
std::uint32_t alignment_of(const Tensor& tensor) {
  constexpr std::uintptr_t kMost = 256;
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.raw()) | kMost;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

/// Elements from row to row; of a single row, what a dense matrix would have.
std::int64_t row_stride(const Tensor& matrix) {
  return matrix.dim(0) == 1 ? matrix.dim(1) : matrix.strides()[0];
}

template <typename Value>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
         const Value& value) {
  check_cublas(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)),
               "setting attribute {} of a product", static_cast<int>(attribute));
}

template <typename Value>
void set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
         const Value& value) {
  check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
               "setting preference {} of a product", static_cast<int>(attribute));
}

}  // namespace

CublasLtMatmul::CublasLtMatmul(cudaStream_t stream, CachingAllocator& allocator, int compute_major)
    : stream_(stream), allocator_(allocator), compute_major_(compute_major) {
  cublasLtHandle_t handle = nullptr;
  check_cublas(cublasLtCreate(&handle), "starting cuBLASLt");
  library_.reset(handle);
}

bool CublasLtMatmul::multiplies(DType dtype) const {
  switch (dtype) {
    case DType::f32:
    case DType::f16:
      return true;
    case DType::bf16:
      return compute_major_ >= 8;
    default:
      return false;
  }
}

std::string CublasLtMatmul::description() {
  const std::size_t version = cublasLtGetVersion();
  return fmt::format("cuBLASLt {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

void CublasLtMatmul::prepare() {
  if (workspace_.data() == nullptr) workspace_ = {allocator_, kWorkspaceBytes};
}

CublasLtMatmul::Layout CublasLtMatmul::make_layout(DType dtype, std::int64_t rows,
                                                   std::int64_t columns, std::int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_cublas(
      cublasLtMatrixLayoutCreate(&layout, data_type(dtype), static_cast<std::uint64_t>(columns),
                                 static_cast<std::uint64_t>(rows), stride),
      "describing a matrix [{}, {}] of {} with rows {} apart", rows, columns, name_of(dtype),
      stride);
  return Layout(layout);
}

CublasLtMatmul::Plan CublasLtMatmul::make_plan(const Shape& shape, const Tensor& bias) const {
  Plan plan;
  cublasLtMatmulDesc_t operation = nullptr;
  check_cublas(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "describing a product");
  plan.operation.reset(operation);
  const auto operand = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  set(operation, CUBLASLT_MATMUL_DESC_TRANSA, operand(shape.transpose_b));
  set(operation, CUBLASLT_MATMUL_DESC_TRANSB, operand(shape.transpose_a));
  if (shape.has_bias) {
    // One number for each row of what cuBLAS sees, which is a column here.
    set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(bias.raw()));
  }
  plan.b = make_layout(shape.dtype, shape.transpose_b ? shape.columns : shape.terms,
                       shape.transpose_b ? shape.terms : shape.columns, shape.b_stride);
  plan.a = make_layout(shape.dtype, shape.transpose_a ? shape.terms : shape.rows,
                       shape.transpose_a ? shape.rows : shape.terms, shape.a_stride);
  plan.out = make_layout(shape.out_dtype, shape.rows, shape.columns, shape.out_stride);

  cublasLtMatmulPreference_t preference = nullptr;
  check_cublas(cublasLtMatmulPreferenceCreate(&preference), "preparing the choice of an algorithm");
  const Preference owner(preference);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  // Partial sums are added in f32; the schemes left out add them in the result's dtype.
  const std::uint32_t schemes =
      CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.b_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.a_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.out_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.out_alignment);

  cublasLtMatmulHeuristicResult_t result{};
  int found = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      library_.get(), operation, plan.b.get(), plan.a.get(), plan.out.get(), plan.out.get(),
      preference, 1, &result, &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return plan;
  check_cublas(status, "choosing an algorithm for a product [{}, {}] x [{}, {}] of {}", shape.rows,
               shape.terms, shape.terms, shape.columns, name_of(shape.dtype));
  plan.offered = found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
  plan.algorithm = result.algo;
  return plan;
}

bool CublasLtMatmul::run(const Tensor& x, const Weight& weight, const Tensor& out,
                         bool accumulate) {
  return weight.layout() == WeightLayout::plain &&
         run(x, false, weight.storage(), true, out, accumulate);
}

bool CublasLtMatmul::run_with_bias(const Tensor& x, const Weight& weight, const Tensor& bias,
                                   const Tensor& out) {
  // Its kernels read several numbers of a bias at a time.
  constexpr std::uint32_t kBiasAlignment = 16;
  return weight.layout() == WeightLayout::plain && bias.dtype() == out.dtype() &&
         alignment_of(bias) >= kBiasAlignment &&
         multiply(x, false, weight.storage(), true, bias, out, false);
}

bool CublasLtMatmul::run(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                         const Tensor& out, bool accumulate) {
  return multiply(a, transpose_a, b, transpose_b, Tensor(), out, accumulate);
}

bool CublasLtMatmul::multiply(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                              const Tensor& bias, const Tensor& out, bool accumulate) {
  const std::int64_t terms = a.dim(transpose_a ? 0 : 1);
  if (a.dtype() != b.dtype() || !multiplies(a.dtype()) || terms == 0) return false;
  const Shape shape{.rows = out.dim(0),
                    .columns = out.dim(1),
                    .terms = terms,
                    .a_stride = row_stride(a),
                    .b_stride = row_stride(b),
                    .out_stride = row_stride(out),
                    .transpose_a = transpose_a,
                    .transpose_b = transpose_b,
                    .dtype = a.dtype(),
                    .out_dtype = out.dtype(),
                    .has_bias = bias.defined(),
                    .a_alignment = alignment_of(a),
                    .b_alignment = alignment_of(b),
                    .out_alignment = alignment_of(out)};
  if (shape.a_stride < a.dim(1) || shape.b_stride < b.dim(1) || shape.out_stride < out.dim(1)) {
    return false;
  }
  auto entry = plans_.find(shape);
  if (entry == plans_.end()) {
    if (plans_.size() >= kMaximumPlans) plans_.clear();
    entry = plans_.emplace(shape, make_plan(shape, bias)).first;
  }
  const Plan& plan = entry->second;
  if (!plan.offered) return false;
  prepare();
  if (bias.defined()) {  // layers of one shape have biases of their own
    set(plan.operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER,
        static_cast<const void*>(bias.raw()));
  }

  const float alpha = 1.0F;
  const float beta = accumulate ? 1.0F : 0.0F;
  check_cublas(
      cublasLtMatmul(library_.get(), plan.operation.get(), &alpha, b.raw(), plan.b.get(), a.raw(),
                     plan.a.get(), &beta, out.raw(), plan.out.get(), out.raw(), plan.out.get(),
                     &plan.algorithm, workspace_.data(), kWorkspaceBytes, stream_),
      "multiplying {} {} by {}", name_of(a.dtype()), a.shape(), b.shape());
  return true;
}

}  // namespace portolan
