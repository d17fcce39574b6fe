// SPDX-License-Identifier: Apache-2.0
#include "core/weight.hpp"

namespace portolan {

Weight Weight::quantized(std::int64_t out_features, std::int64_t in_features,
                         Quantization quantization, Device device) {
  const std::int64_t bytes =
      panel_count(out_features) * QuantizedPanel(in_features, quantization).bytes;
  Weight weight(Tensor::empty({bytes}, DType::u8, device), WeightLayout::panels, out_features,
                in_features, DType::u8);
  weight.quantization_ = quantization;
  return weight;
}

}  // namespace portolan
