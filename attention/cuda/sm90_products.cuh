// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/device_function.hpp"

/// The wgmma instructions: products of 64 rows of a warpgroup by 64 or 128 columns, 16 deep, with
/// f32 accumulators.
namespace portolan::cuda::sm90 {

// The instruction names each of its registers; these lists are of the operands %0 to %31, %32 to
// %63 and of the accumulators from d[I] on.
#define PORTOLAN_OPERANDS_32                                               \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PORTOLAN_OPERANDS_64                                                                     \
  PORTOLAN_OPERANDS_32                                                                           \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PORTOLAN_REGISTERS_8(I)                                                       \
  "+f"(d[I]), "+f"(d[(I) + 1]), "+f"(d[(I) + 2]), "+f"(d[(I) + 3]), "+f"(d[(I) + 4]), \
      "+f"(d[(I) + 5]), "+f"(d[(I) + 6]), "+f"(d[(I) + 7])
#define PORTOLAN_REGISTERS_32                                                 \
  PORTOLAN_REGISTERS_8(0), PORTOLAN_REGISTERS_8(8), PORTOLAN_REGISTERS_8(16), \
      PORTOLAN_REGISTERS_8(24)
#define PORTOLAN_REGISTERS_64                                                \
  PORTOLAN_REGISTERS_32, PORTOLAN_REGISTERS_8(32), PORTOLAN_REGISTERS_8(40), \
      PORTOLAN_REGISTERS_8(48), PORTOLAN_REGISTERS_8(56)

// d (+)= A B^T, both operands in shared memory with the summed dimension along their rows. A, B and
// P are the operand numbers that follow the accumulators'.
#define PORTOLAN_SHARED_PRODUCT(COLUMNS, TYPE, OPERANDS, REGISTERS, A, B, P)                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" P                                             \
               ", 0;\n"                                                                           \
               "wgmma.mma_async.sync.aligned.m64n" COLUMNS "k16.f32." TYPE "." TYPE " {" OPERANDS \
               "}, %" A ", %" B ", p, 1, 1, 0, 0;\n}"                                             \
               : REGISTERS                                                                        \
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)))

// d += A B, A in registers, B in shared memory with the summed dimension along its columns.
#define PORTOLAN_REGISTER_PRODUCT(COLUMNS, TYPE, OPERANDS, REGISTERS, A0, A1, A2, A3, B) \
  asm volatile(                                                                          \
      "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"                                         \
      "wgmma.mma_async.sync.aligned.m64n" COLUMNS "k16.f32." TYPE "." TYPE " {" OPERANDS \
      "}, {%" A0 ", %" A1 ", %" A2 ", %" A3 "}, %" B ", p, 1, 1, 1;\n}"                  \
      : REGISTERS                                                                        \
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b))

template <AttentionElement kElement>
PORTOLAN_DEVICE void shared_product(float (&d)[32], std::uint64_t a, std::uint64_t b,
                                    bool accumulate) {
  if constexpr (kElement == AttentionElement::bf16) {
    PORTOLAN_SHARED_PRODUCT("64", "bf16", PORTOLAN_OPERANDS_32, PORTOLAN_REGISTERS_32, "32", "33",
                            "34");
  } else {
    PORTOLAN_SHARED_PRODUCT("64", "f16", PORTOLAN_OPERANDS_32, PORTOLAN_REGISTERS_32, "32", "33",
                            "34");
  }
}
template <AttentionElement kElement>
PORTOLAN_DEVICE void shared_product(float (&d)[64], std::uint64_t a, std::uint64_t b,
                                    bool accumulate) {
  if constexpr (kElement == AttentionElement::bf16) {
    PORTOLAN_SHARED_PRODUCT("128", "bf16", PORTOLAN_OPERANDS_64, PORTOLAN_REGISTERS_64, "64", "65",
                            "66");
  } else {
    PORTOLAN_SHARED_PRODUCT("128", "f16", PORTOLAN_OPERANDS_64, PORTOLAN_REGISTERS_64, "64", "65",
                            "66");
  }
}

template <AttentionElement kElement>
PORTOLAN_DEVICE void register_product(float (&d)[32], std::uint32_t a0, std::uint32_t a1,
                                      std::uint32_t a2, std::uint32_t a3, std::uint64_t b) {
  if constexpr (kElement == AttentionElement::bf16) {
    PORTOLAN_REGISTER_PRODUCT("64", "bf16", PORTOLAN_OPERANDS_32, PORTOLAN_REGISTERS_32, "32", "33",
                              "34", "35", "36");
  } else {
    PORTOLAN_REGISTER_PRODUCT("64", "f16", PORTOLAN_OPERANDS_32, PORTOLAN_REGISTERS_32, "32", "33",
                              "34", "35", "36");
  }
}
template <AttentionElement kElement>
PORTOLAN_DEVICE void register_product(float (&d)[64], std::uint32_t a0, std::uint32_t a1,
                                      std::uint32_t a2, std::uint32_t a3, std::uint64_t b) {
  if constexpr (kElement == AttentionElement::bf16) {
    PORTOLAN_REGISTER_PRODUCT("128", "bf16", PORTOLAN_OPERANDS_64, PORTOLAN_REGISTERS_64, "64",
                              "65", "66", "67", "68");
  } else {
    PORTOLAN_REGISTER_PRODUCT("128", "f16", PORTOLAN_OPERANDS_64, PORTOLAN_REGISTERS_64, "64", "65",
                              "66", "67", "68");
  }
}

#undef PORTOLAN_OPERANDS_32
#undef PORTOLAN_OPERANDS_64
#undef PORTOLAN_REGISTERS_8
#undef PORTOLAN_REGISTERS_32
#undef PORTOLAN_REGISTERS_64
#undef PORTOLAN_SHARED_PRODUCT
#undef PORTOLAN_REGISTER_PRODUCT

}  // namespace portolan::cuda::sm90
