// SPDX-License-Identifier: Apache-2.0
#include "core/dtype.hpp"

#include <array>
#include <string>
#include <utility>

#include "core/error.hpp"

namespace portolan {
namespace {
constexpr std::array<std::pair<DType, std::string_view>, 7> kNames{{{DType::f32, "f32"},
                                                                    {DType::bf16, "bf16"},
                                                                    {DType::f16, "f16"},
                                                                    {DType::f64, "f64"},
                                                                    {DType::i32, "i32"},
                                                                    {DType::i64, "i64"},
                                                                    {DType::u8, "u8"}}};
}  // namespace

std::string_view name_of(DType dtype) {
  for (const auto& [candidate, name] : kNames) {
    if (candidate == dtype) return name;
  }
  return "unknown";
}

DType dtype_from_name(std::string_view name) {
  for (const auto& [dtype, candidate] : kNames) {
    if (candidate == name) return dtype;
  }
  throw UsageError(fmt::format("unknown dtype '{}': expected one of f32, bf16, f16", name));
}

}  // namespace portolan
