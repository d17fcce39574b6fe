// SPDX-License-Identifier: Apache-2.0
#include "runtime/devices.hpp"

#if defined(PORTOLAN_HAS_OPENMP)
#include "attention/openmp/openmp_attention.hpp"
#include "backends/openmp/openmp_backend.hpp"
#endif

#if defined(PORTOLAN_HAS_CUDA)
#include "attention/cuda/cuda_attention.hpp"
#include "backends/cuda/cuda_backend.hpp"
#endif

#include "attention/attention.hpp"
#include "attention/portable/portable_attention.hpp"
#include "backends/serial/serial_backend.hpp"
#include "core/backend.hpp"

namespace portolan {

RegisteredDevices::RegisteredDevices([[maybe_unused]] int gpu,
                                     [[maybe_unused]] const AttentionTileTable& tiles)
    : RegisteredDevices() {
  register_backend(make_serial_backend());
  register_portable_attention_serial();
#if defined(PORTOLAN_HAS_OPENMP)
  register_backend(make_openmp_backend());
  for (const AttentionMethod method :
       {AttentionMethod::flash, AttentionMethod::window, AttentionMethod::block_sparse}) {
    register_attention_kernel(make_openmp_flash_attention(method, tiles));
    register_attention_kernel(make_openmp_flash_attention_backward(method, tiles));
  }
  register_portable_attention_openmp();
#endif
#if defined(PORTOLAN_HAS_CUDA)
  register_backend(make_cuda_backend(gpu));
  for (const AttentionMethod method : {AttentionMethod::flash, AttentionMethod::window}) {
    register_attention_kernel(make_cuda_flash_attention(gpu, method));
    register_attention_kernel(make_cuda_flash_attention_backward(gpu, method));
  }
  register_portable_attention_cuda();
#endif
}

RegisteredDevices::~RegisteredDevices() {
  unregister_attention_kernels();
  unregister_backends();
}

}  // namespace portolan
