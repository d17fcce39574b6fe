// SPDX-License-Identifier: Apache-2.0
#include "core/quantization.hpp"

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {

std::string_view name_of(Quantization quantization) {
  switch (quantization) {
    case Quantization::none:
      return "none";
    case Quantization::int8:
      return "int8";
    case Quantization::int4:
      return "int4";
  }
  return "unknown";
}

Quantization quantization_from_name(std::string_view name) {
  for (const Quantization quantization :
       {Quantization::none, Quantization::int8, Quantization::int4}) {
    if (name == name_of(quantization)) return quantization;
  }
  throw UsageError(
      fmt::format("'{}' is not a quantization: expected none, int8 or int4", printable(name)));
}

}  // namespace portolan
