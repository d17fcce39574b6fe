// SPDX-License-Identifier: Apache-2.0
#pragma once

/// The code of the sm_80 kernels is written over a `Lane`, one thread's view of its GPU: CudaLane in
/// kernels, an emulation in tests on machines without a GPU. So it has to compile as plain C++ too.
#if defined(__CUDACC__)
#define PORTOLAN_DEVICE __device__ __forceinline__
#define PORTOLAN_UNROLL _Pragma("unroll")
#else
#define PORTOLAN_DEVICE inline
#define PORTOLAN_UNROLL
#endif
