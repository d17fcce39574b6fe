// SPDX-License-Identifier: Apache-2.0
/// Lets PyTorch's MKL use its fast kernels on every CPU that can run them.
///
/// MKL asks this function whether the CPU is Intel's and takes a generic path, several times slower
/// in f32, where it is not. The kernels of its other path need AVX2 or AVX-512, which AMD's CPUs
/// have too. Preloaded, this definition answers in place of MKL's own.
int mkl_serv_intel_cpu_true(void) { return 1; }
