// SPDX-License-Identifier: Apache-2.0
#include "attention/portable/kernels.hpp"
#include "attention/portable/portable_attention.hpp"

namespace portolan {

std::unique_ptr<AttentionForwardKernel> make_portable_attention_cuda() {
  return std::make_unique<portable::FlashKernel<Kokkos::Cuda, DeviceKind::cuda>>();
}

std::unique_ptr<AttentionForwardKernel> make_standard_attention_cuda() {
  return std::make_unique<portable::StandardKernel<Kokkos::Cuda, DeviceKind::cuda>>();
}

}  // namespace portolan
