// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#if defined(__CUDACC__)
#define PORTOLAN_HOST_DEVICE __host__ __device__
#else
#define PORTOLAN_HOST_DEVICE
#endif

namespace portolan {

/// Element types a Tensor can hold. The engine computes in f32, bf16 and f16; the others carry
/// indices, packed bytes and reference data.
enum class DType : std::uint8_t { f32, bf16, f16, f64, i32, i64, u8 };

/// Bytes of one element.
[[nodiscard]] constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}

/// "f32", "bf16", ... as the command line spells them.
[[nodiscard]] std::string_view name_of(DType dtype);

/// Inverse of name_of; throws UsageError for an unknown name.
[[nodiscard]] DType dtype_from_name(std::string_view name);

/// True for the dtypes the engine computes in.
[[nodiscard]] constexpr bool is_floating(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

/// bfloat16 storage: the upper half of an f32. Arithmetic is done in f32. Not Kokkos' own type,
/// which is a plain float in CPU builds and would change the layout with the backend.
struct BFloat16 {
  std::uint16_t bits = 0;
};

/// IEEE 754 binary16 storage. Arithmetic is done in f32.
struct Float16 {
  std::uint16_t bits = 0;
};

/// Exact.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float to_float(BFloat16 value) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(value.bits) << 16);
}

/// Exact.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float to_float(Float16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) {  // infinity and NaN keep their payload
    return std::bit_cast<float>(sign | 0x7F800000u | ((magnitude & 0x3FFu) << 13));
  }
  // Moving the exponent by multiplication also normalises subnormals, exactly.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | sign);
}

[[nodiscard]] PORTOLAN_HOST_DEVICE inline float to_float(float value) { return value; }

/// Conversion from f32, to nearest, ties to even; NaN stays NaN, overflow becomes infinity.
template <typename T>
[[nodiscard]] PORTOLAN_HOST_DEVICE T from_float(float value);

template <>
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float from_float<float>(float value) {
  return value;
}

template <>
[[nodiscard]] PORTOLAN_HOST_DEVICE inline BFloat16 from_float<BFloat16>(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
    return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  }
  return {static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
[[nodiscard]] PORTOLAN_HOST_DEVICE inline Float16 from_float<Float16>(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return {static_cast<std::uint16_t>(sign | 0x7E00u)};
  if (magnitude >= 0x477FF000u) return {static_cast<std::uint16_t>(sign | 0x7C00u)};
  if (magnitude < 0x38800000u) {
    // Adding 0.5 aligns the subnormal's last bit with f32's, so the addition itself rounds to even.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5F;
    const std::uint32_t rounded = std::bit_cast<std::uint32_t>(aligned) - 0x3F000000u;
    return {static_cast<std::uint16_t>(sign | rounded)};
  }
  const std::uint32_t rebased = magnitude - 0x38000000u;
  const std::uint32_t rounded = (rebased + 0xFFFu + ((rebased >> 13) & 1u)) >> 13;
  return {static_cast<std::uint16_t>(sign | rounded)};
}

}  // namespace portolan
