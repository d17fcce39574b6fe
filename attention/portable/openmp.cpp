// SPDX-License-Identifier: Apache-2.0
#include "attention/portable/kernels.hpp"
#include "attention/portable/portable_attention.hpp"

namespace portolan {

void register_portable_attention_openmp() {
  portable::register_kernels<Kokkos::OpenMP, DeviceKind::cpu>();
}

}  // namespace portolan
