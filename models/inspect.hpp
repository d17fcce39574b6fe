// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "models/config.hpp"

namespace portolan {

/// What a file or folder holds.
struct InspectReport {
  /// "kind" is "model", "config", "tokenizer", "index", "safetensors" or "torch"; the other members
  /// depend on it:
  /// - model, config: architecture, config {...}, parameters;
  /// - model also: format ("hf" or "meta"), bytes, dtypes, files, unused_tensors, and tokenizer
  ///   {...} or null;
  /// - tokenizer: format, tokens (a count), and bos, eos, unknown, pad, mask, each {id, token} or
  ///   null;
  /// - index: tensors (a count), files;
  /// - safetensors, torch: elements, bytes, dtypes, tensors [{name, dtype, shape, bytes}];
  /// - safetensors also: metadata.
  ///
  /// `dtypes` maps a dtype's name in the format to {tensors, elements, bytes}. Callers may add
  /// members.
  nlohmann::ordered_json json;
  /// For kinds model and config: what parameter_shapes and plans need.
  std::optional<ModelConfig> config;

  /// The same for people, with whatever was added to `json`; ends with a newline.
  [[nodiscard]] std::string text() const;
};

/// Looks at a model folder, a config.json or params.json, a tokenizer.json, a tokenizer.model, a
/// checkpoint's index, a safetensors file or one of torch.save (by extension, then by content) and
/// checks that it is sound. Reads no weights and needs no device. Throws InputError, one line that
/// starts with the path as it was given, when it is not sound, and UnsupportedError for kinds of
/// file that it does not know.
[[nodiscard]] InspectReport inspect(const std::filesystem::path& path);

}  // namespace portolan
