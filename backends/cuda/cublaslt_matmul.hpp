// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>

#include "backends/cuda/aligned_scratch.hpp"
#include "core/allocator.hpp"
#include "core/tensor.hpp"
#include "core/weight.hpp"

namespace portolan {

/// Products by cuBLASLt on one stream. What cuBLASLt needs for a product (descriptors and the
/// algorithm its heuristics prefer) is made once for each shape and kept.
///
/// f32 is multiplied in f32, never in TF32. All sums are in f32: algorithms that add partial sums
/// in the 16-bit dtype of the result are not used. With the same library, GPU and shapes a product
/// has the same bits each time.
class CublasLtMatmul {
 public:
  /// Work is enqueued on `stream`; scratch comes from `allocator`, whose memory must be reused in
  /// the order of that stream.
  CublasLtMatmul(cudaStream_t stream, CachingAllocator& allocator, int compute_major);

  /// True if operands of the dtype are multiplied on the GPU's fast path: bf16 needs compute
  /// capability 8.0.
  [[nodiscard]] bool multiplies(DType dtype) const;

  /// out = x W^T, or out += x W^T. x [n, in] and W [out, in] of one dtype, out [n, out] of that
  /// dtype or f32; rows may be strided. False, and nothing done, if cuBLASLt does not offer it: a
  /// packed weight, operands of two dtypes, rows that overlap, an alignment it has no algorithm
  /// for.
  [[nodiscard]] bool run(const Tensor& x, const Weight& weight, const Tensor& out, bool accumulate);

  /// out = x W^T + bias [out], rounded once. As above; cuBLASLt takes a bias of the dtype of `out`
  /// only.
  [[nodiscard]] bool run_with_bias(const Tensor& x, const Weight& weight, const Tensor& bias,
                                   const Tensor& out);

  /// Backend::product, of operands of one dtype. False, and nothing done, where cuBLASLt does not
  /// offer it.
  [[nodiscard]] bool run(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                         const Tensor& out, bool accumulate);

  /// Takes the scratch of products, which is otherwise taken with the first.
  void prepare();

  /// "cuBLASLt 13.0.2".
  [[nodiscard]] static std::string description();

 private:
  /// Bytes that an algorithm may use as scratch; NVIDIA's advice for Hopper.
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;
  /// Decoding meets a new shape at most per batch size, prefill one per length: far fewer than
  /// this, which bounds what a server that never ends keeps.
  static constexpr std::size_t kMaximumPlans = 4096;

  struct Shape {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t terms = 0;
    std::int64_t a_stride = 0;
    std::int64_t b_stride = 0;
    std::int64_t out_stride = 0;
    bool transpose_a = false;
    bool transpose_b = false;
    DType dtype = DType::f32;
    DType out_dtype = DType::f32;
    bool has_bias = false;
    // Bytes; algorithms with wide loads need more.
    std::uint32_t a_alignment = 0;
    std::uint32_t b_alignment = 0;
    std::uint32_t out_alignment = 0;

    friend auto operator<=>(const Shape&, const Shape&) = default;
  };

  template <auto kDestroy>
  struct Destroy {
    template <typename Handle>
    void operator()(Handle handle) const noexcept {
      kDestroy(handle);
    }
  };
  template <typename Handle, auto kDestroy>
  using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Destroy<kDestroy>>;
  using Library = Owned<cublasLtHandle_t, cublasLtDestroy>;
  using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
  using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
  using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

  /// cuBLAS counts columns first: it sees out^T = op(b)^T op(a)^T, where each of the three matrices
  /// has its row-major rows as columns. So b comes first, and is transposed there where it is here.
  struct Plan {
    bool offered = false;
    Operation operation;
    Layout b;
    Layout a;
    Layout out;
    cublasLtMatmulAlgo_t algorithm{};
  };

  [[nodiscard]] static Layout make_layout(DType dtype, std::int64_t rows, std::int64_t columns,
                                          std::int64_t stride);
  [[nodiscard]] Plan make_plan(const Shape& shape, const Tensor& bias) const;
  /// op(a) op(b), onto `out` or not, plus the bias if it is defined.
  [[nodiscard]] bool multiply(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                              const Tensor& bias, const Tensor& out, bool accumulate);

  cudaStream_t stream_;
  CachingAllocator& allocator_;
  int compute_major_;
  Library library_;
  cuda::AlignedScratch workspace_;
  std::map<Shape, Plan> plans_;
};

}  // namespace portolan
