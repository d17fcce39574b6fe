// SPDX-License-Identifier: Apache-2.0
#include <cudaTypedefs.h>

#include "attention/cuda/sm90_lane.cuh"
#include "attention/cuda/sm90_layout.hpp"
#include "attention/cuda/sm90_tensor_maps.hpp"

namespace portolan::cuda::sm90 {
namespace {

constexpr int kRank = 4;
constexpr int kTokenDimension = 2;
constexpr std::int64_t kElementBytes = 2;

/// The driver's function, asked for at run time so that a program need not link the driver.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto function = [] {
    void* pointer = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &pointer,
                                                                12000, cudaEnableDefault, &found);
#else
    const cudaError_t status =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &pointer, cudaEnableDefault, &found);
#endif
    return status == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(pointer)
               : nullptr;
  }();
  return function;
}

cudaError_t encode(CUtensorMap& map, const AttentionShape& shape, const TensorDescription& tensor) {
  const auto encode_tiled = encoder();
  if (encode_tiled == nullptr) {
    return cudaErrorNotSupported;
  }
  const bool packed = shape.query_offsets != nullptr;
  const std::int64_t tokens = tensor.of_queries ? shape.query_tokens : shape.key_tokens;
  const std::int64_t batch = packed ? 1 : shape.batch;
  const std::int64_t counts[kRank] = {shape.head_dim, tensor.heads, tokens, batch};
  const std::int64_t distances[kRank] = {1, tensor.strides.head, tensor.strides.token,
                                         tensor.strides.batch};
  cuuint64_t sizes[kRank];
  cuuint64_t strides[kRank];  // in bytes; the driver knows the first
  for (int i = 0; i < kRank; ++i) {
    // The driver takes no size of zero. A dimension of one has no next element to tell the distance
    // to, unless sequences of other lengths are to use the map: it gets that of a dense tensor.
    const bool varies = packed && i == kTokenDimension;
    sizes[i] = static_cast<cuuint64_t>(counts[i] > 0 ? counts[i] : 1);
    strides[i] = i == 0 || counts[i] > 1 || varies
                     ? static_cast<cuuint64_t>(distances[i] * kElementBytes)
                     : sizes[i - 1] * strides[i - 1];
  }
  const cuuint32_t box[kRank] = {kBlockColumns, 1, static_cast<cuuint32_t>(tensor.box_rows), 1};
  const cuuint32_t steps[kRank] = {1, 1, 1, 1};
  const CUtensorMapDataType type = shape.element == AttentionElement::bf16
                                       ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const CUresult result =
      encode_tiled(&map, type, kRank, const_cast<void*>(tensor.data), sizes, strides + 1, box,
                   steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/// Where the tensors that write_sequence_maps() bounds lie, and what bounds them.
struct SequenceTensors {
  TensorMaps<CUtensorMap> maps;
  const char* data[kMostTensors];
  std::int64_t token_bytes[kMostTensors];
  const std::int32_t* offsets[kMostTensors];
  CUtensorMap* target = nullptr;
};

/// Block (sequence, tensor), one warp: the tensor's map moved to the sequence's first token and
/// bounded by its length. The map is changed in shared memory and copied out by the instruction
/// that also makes it visible to the copy engine.
__global__ void write_sequence_maps(const __grid_constant__ SequenceTensors tensors) {
  __shared__ alignas(128) CUtensorMap map;
  const int sequence = static_cast<int>(blockIdx.x);
  const int tensor = static_cast<int>(blockIdx.y);
  constexpr int kWords = sizeof(CUtensorMap) / sizeof(std::uint32_t);
  static_assert(kWords == 32, "one word for each lane");
  reinterpret_cast<std::uint32_t*>(&map)[threadIdx.x] =
      reinterpret_cast<const std::uint32_t*>(&tensors.maps.maps[tensor])[threadIdx.x];
  __syncwarp();
  const std::uint32_t address = HopperLane().shared_address(&map);
  if (threadIdx.x == 0) {
    const std::int32_t first = tensors.offsets[tensor][sequence];
    const std::int32_t tokens = tensors.offsets[tensor][sequence + 1] - first;
    // A map needs at least one token; nobody copies from or to an empty sequence.
    const std::uint32_t bound = tokens > 0 ? static_cast<std::uint32_t>(tokens) : 1U;
    const char* data = tensors.data[tensor] + first * tensors.token_bytes[tensor];
    asm volatile(
        "tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%0], %1;" ::"r"(address),
        "l"(data)
        : "memory");
    asm volatile(
        "tensormap.replace.tile.global_dim.shared::cta.b1024.b32 [%0], %1, %2;" ::"r"(address),
        "n"(kTokenDimension), "r"(bound)
        : "memory");
  }
  __syncwarp();
  CUtensorMap* target = tensors.target + sequence * tensors.maps.count + tensor;
  asm volatile(
      "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned"
      " [%0], [%1], 128;" ::"l"(target),
      "r"(address)
      : "memory");
}

}  // namespace

std::size_t tensor_map_bytes(const AttentionShape& shape, int count) {
  return shape.query_offsets == nullptr ? 0
                                        : static_cast<std::size_t>(shape.batch) *
                                              static_cast<std::size_t>(count) * sizeof(CUtensorMap);
}

cudaError_t make_tensor_maps(TensorMaps<CUtensorMap>& maps, const AttentionShape& shape,
                             const TensorDescription* tensors, int count, void* workspace,
                             cudaStream_t stream) {
  maps.count = count;
  maps.of_sequences = nullptr;
  for (int i = 0; i < count; ++i) {
    const cudaError_t status = encode(maps.maps[i], shape, tensors[i]);
    if (status != cudaSuccess) {
      return status;
    }
  }
  if (shape.query_offsets == nullptr) {
    return cudaSuccess;
  }
  SequenceTensors sequences{};
  sequences.maps = maps;
  sequences.target = static_cast<CUtensorMap*>(workspace);
  for (int i = 0; i < count; ++i) {
    sequences.data[i] = static_cast<const char*>(tensors[i].data);
    sequences.token_bytes[i] = tensors[i].strides.token * kElementBytes;
    sequences.offsets[i] = tensors[i].of_queries ? shape.query_offsets : shape.key_offsets;
  }
  const dim3 grid(static_cast<unsigned>(shape.batch), static_cast<unsigned>(count));
  write_sequence_maps<<<grid, 32, 0, stream>>>(sequences);
  maps.of_sequences = sequences.target;
  return cudaGetLastError();
}

}  // namespace portolan::cuda::sm90
