// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/output_file.hpp"
#include "core/safetensors_writer.hpp"
#include "models/conversion_steps.hpp"

namespace portolan {
namespace {

/// The tensors of each file, in the parameters' order.
std::vector<std::vector<TensorDescription>> deal_to_files(
    const Checkpoint& source, const std::vector<ParameterShape>& parameters,
    const ConversionOptions& options, const std::string& folder) {
  std::vector<std::vector<TensorDescription>> files(1);
  std::uint64_t bytes = 0;  // of the last
  for (const ParameterShape& parameter : parameters) {
    TensorDescription tensor{parameter.name, written_dtype(source.stored(parameter.name), options),
                             parameter.shape};
    const std::uint64_t size = tensor.checked_size(folder);
    const std::uint64_t room =
        options.maximum_file_bytes - std::min(bytes, options.maximum_file_bytes);
    if (!files.back().empty() && size > room) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().push_back(std::move(tensor));
    bytes += size;
  }
  return files;
}

std::string file_name(std::size_t index, std::size_t files) {
  if (files == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, files);
}

}  // namespace

void write_hugging_face_weights(const Checkpoint& source,
                                const std::vector<ParameterShape>& parameters,
                                const std::filesystem::path& folder,
                                const ConversionOptions& options,
                                const ConversionProgress& progress) {
  const auto files = deal_to_files(source, parameters, options, folder.string());
  std::uint64_t all = 0;
  nlohmann::ordered_json weight_map;
  for (std::size_t i = 0; i < files.size(); ++i) {
    for (const TensorDescription& tensor : files[i]) {
      all += tensor.checked_size(folder.string());
      weight_map[tensor.name] = file_name(i, files.size());
    }
  }
  ProgressCounter counter(progress, all);
  for (std::size_t i = 0; i < files.size(); ++i) {
    // transformers asks for this entry.
    SafetensorsWriter writer(folder / file_name(i, files.size()), files[i], {{"format", "pt"}});
    for (const TensorDescription& tensor : files[i]) {
      const StoredParameter& parameter = source.stored(tensor.name);
      stream_block(parameter, ParameterBlock::whole(parameter), tensor.dtype, 0,
                   [&](std::span<const std::byte> bytes) {
                     writer.append(tensor.name, bytes);
                     counter.add(bytes.size());
                   });
    }
    writer.finish();
  }
  if (files.size() == 1) return;
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", all}}},
                                        {"weight_map", std::move(weight_map)}};
  write_file(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace portolan
