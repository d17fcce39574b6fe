// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/json_file.hpp"

namespace portolan {

/// One step of what is done to text before it is split.
class NormalizerStep {
 public:
  virtual ~NormalizerStep() = default;
  /// `text` is UTF-8 and stays so.
  virtual void apply(std::string& text) const = 0;
};

class Normalizer {
 public:
  Normalizer() = default;
  explicit Normalizer(std::vector<std::unique_ptr<const NormalizerStep>> steps)
      : steps_(std::move(steps)) {}

  /// Leaves all text as it is.
  [[nodiscard]] bool empty() const noexcept { return steps_.empty(); }
  [[nodiscard]] std::string apply(std::string text) const {
    for (const auto& step : steps_) step->apply(text);
    return text;
  }

 private:
  std::vector<std::unique_ptr<const NormalizerStep>> steps_;
};

/// What tokenizer.json says under `normalizer`. Throws InputError for what it does not know.
[[nodiscard]] Normalizer read_normalizer(const JsonObject& object);

}  // namespace portolan
