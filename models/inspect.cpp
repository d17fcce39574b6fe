// SPDX-License-Identifier: Apache-2.0
#include "models/inspect.hpp"

#include <array>
#include <span>
#include <string_view>
#include <system_error>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/mapped_file.hpp"
#include "core/printable.hpp"
#include "core/safetensors.hpp"
#include "core/torch_file.hpp"
#include "models/checkpoint.hpp"
#include "models/config_fields.hpp"
#include "models/config_rope.hpp"
#include "models/meta_config.hpp"
#include "models/meta_layout.hpp"
#include "models/tokenizers/tokenizer.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json describe_rope(const LlamaConfig& config) {
  Json result{{"kind", "default"}};
  const Json fields = rope_scaling_fields(config.rope_scaling);
  for (const auto& [name, value] : fields.items()) {
    result[name == "rope_type" ? "kind" : name] = value;
  }
  return result;
}

void add_specific(Json& out, const LlamaConfig& config) {
  out["rms_norm_epsilon"] = config.rms_norm_epsilon;
  out["rope_theta"] = config.rope_theta;
  out["rope_scaling"] = describe_rope(config);
  out["sliding_window"] = config.sliding_window ? Json(*config.sliding_window) : Json(nullptr);
  out["attention_bias"] = config.attention_bias;
  out["mlp_bias"] = config.mlp_bias;
}

void add_specific(Json& out, const GptBigCodeConfig& config) {
  out["layer_norm_epsilon"] = config.layer_norm_epsilon;
  out["activation"] = gelu_name(config.activation);
}

void add_specific(Json& out, const RobertaConfig& config) {
  out["type_vocab_size"] = config.type_vocab_size;
  out["pad_token_id"] = config.pad_token_id;
  out["layer_norm_epsilon"] = config.layer_norm_epsilon;
  out["activation"] = gelu_name(config.activation);
}

void add_specific(Json& out, const ExternalConfig& config) { out.update(config.fields); }

Json describe_config(const ModelConfig& config) {
  const CommonConfig& common = config.common();
  Json out{{"hidden_size", common.hidden_size},
           {"intermediate_size", common.intermediate_size},
           {"layers", common.layers},
           {"attention_heads", common.attention_heads},
           {"kv_heads", common.kv_heads},
           {"head_dim", common.head_dim},
           {"vocab_size", common.vocab_size},
           {"max_position_embeddings", common.max_position_embeddings},
           {"tie_word_embeddings", common.tie_word_embeddings},
           {"dtype", common.dtype_name.empty() ? Json(nullptr) : Json(common.dtype_name)},
           {"bos_token_id", common.bos_token_id ? Json(*common.bos_token_id) : Json(nullptr)},
           {"eos_token_ids", common.eos_token_ids}};
  std::visit([&](const auto& each) { add_specific(out, each); }, config.parameters);
  return out;
}

void count_dtype(Json& dtypes, const TensorEntry& entry, std::uint64_t bytes) {
  Json& counts = dtypes[entry.dtype_name];
  if (counts.is_null()) counts = {{"tensors", 0}, {"elements", 0}, {"bytes", 0}};
  counts["tensors"] = counts["tensors"].get<std::int64_t>() + 1;
  counts["elements"] = counts["elements"].get<std::int64_t>() + entry.elements();
  counts["bytes"] = counts["bytes"].get<std::uint64_t>() + bytes;
}

/// Bytes of the files that hold the parameter. A dtype of the format may have no DType, so they
/// follow from those of its tensors.
std::uint64_t stored_bytes(const StoredParameter& parameter) {
  std::uint64_t bytes = 0;
  for (const ParameterPiece& piece : parameter.pieces) {
    const std::int64_t elements =
        (piece.row_end - piece.row_begin) * (piece.column_end - piece.column_begin);
    if (elements == 0) continue;
    bytes += piece.tensor->byte_size() / static_cast<std::uint64_t>(piece.tensor->elements()) *
             static_cast<std::uint64_t>(elements);
  }
  return bytes;
}

Json describe_files(const std::vector<std::unique_ptr<TensorFile>>& files) {
  Json out = Json::array();
  for (const auto& file : files) {
    std::uint64_t bytes = 0;
    for (const TensorEntry& entry : file->entries()) bytes += entry.byte_size();
    out.push_back({{"name", fs::path(file->name()).filename().string()},
                   {"tensors", file->entries().size()},
                   {"bytes", bytes}});
  }
  return out;
}

InspectReport inspect_config(const fs::path& path) {
  InspectReport report;
  report.config = read_model_config(path);
  report.json = {{"path", printable_path(path)},
                 {"kind", "config"},
                 {"architecture", report.config->architecture},
                 {"config", describe_config(*report.config)},
                 {"parameters", parameter_count(*report.config)}};
  return report;
}

Json describe_tokenizer(const Tokenizer& tokenizer) {
  const auto token = [&](const std::optional<TokenId>& id) {
    return id ? Json{{"id", *id}, {"token", tokenizer.token(*id).value_or("")}} : Json(nullptr);
  };
  const SpecialTokens& special = tokenizer.special();
  return {{"format", name_of(tokenizer.format())},
          {"tokens", tokenizer.vocab_size()},
          {"bos", token(special.bos)},
          {"eos", token(special.eos)},
          {"unknown", token(special.unknown)},
          {"pad", token(special.pad)},
          {"mask", token(special.mask)}};
}

InspectReport inspect_tokenizer(const fs::path& path) {
  InspectReport report;
  report.json = {{"path", printable_path(path)}, {"kind", "tokenizer"}};
  report.json.update(describe_tokenizer(load_tokenizer(path)));
  return report;
}

InspectReport inspect_meta_config(const fs::path& path) {
  const ModelConfig config = read_meta_config(path);
  InspectReport report;
  report.json = {{"path", printable_path(path)},
                 {"kind", "config"},
                 {"architecture", config.architecture},
                 {"config", describe_config(config)}};
  // Without the size of the vocabulary, which may be the tokenizer's, nothing can be counted.
  if (config.common().vocab_size == 0) return report;
  report.config = config;
  report.json["parameters"] = parameter_count(config);
  return report;
}

InspectReport inspect_folder(const fs::path& path) {
  const Checkpoint checkpoint(path, Checkpoint::UnknownDTypes::list);
  Json dtypes = Json::object();
  std::int64_t parameters = 0;
  std::uint64_t bytes = 0;
  for (const ParameterShape& parameter : checkpoint.parameters()) {
    const TensorEntry& entry = checkpoint.entry(parameter.name);
    parameters += entry.elements();
    const std::uint64_t size = stored_bytes(checkpoint.stored(parameter.name));
    bytes += size;
    count_dtype(dtypes, entry, size);
  }
  InspectReport report;
  report.config = checkpoint.config();
  report.json = {{"path", printable_path(path)},
                 {"kind", "model"},
                 {"format", checkpoint.format() == CheckpointFormat::meta ? "meta" : "hf"},
                 {"architecture", report.config->architecture},
                 {"config", describe_config(*report.config)},
                 {"parameters", parameters},
                 {"bytes", bytes},
                 {"dtypes", std::move(dtypes)},
                 {"files", describe_files(checkpoint.files())},
                 {"unused_tensors", checkpoint.unused_tensors()},
                 {"tokenizer",
                  find_tokenizer(path) ? describe_tokenizer(load_tokenizer(path)) : Json(nullptr)}};
  return report;
}

InspectReport inspect_index(const fs::path& path) {
  const CheckpointIndex index = read_checkpoint_index(path);
  const auto files = open_indexed_files(path, index);
  InspectReport report;
  report.json = {{"path", printable_path(path)},
                 {"kind", "index"},
                 {"tensors", index.weight_map.size()},
                 {"files", describe_files(files)}};
  return report;
}

InspectReport inspect_tensors(const fs::path& path, std::string_view kind, const TensorFile& file,
                              const std::map<std::string, std::string>* metadata) {
  Json tensors = Json::array();
  Json dtypes = Json::object();
  std::int64_t elements = 0;
  std::uint64_t bytes = 0;
  for (const TensorEntry& entry : file.entries()) {
    tensors.push_back({{"name", entry.name},
                       {"dtype", entry.dtype_name},
                       {"shape", entry.shape},
                       {"bytes", entry.byte_size()}});
    elements += entry.elements();
    bytes += entry.byte_size();
    count_dtype(dtypes, entry, entry.byte_size());
  }
  InspectReport report;
  report.json = {{"path", printable_path(path)},
                 {"kind", kind},
                 {"elements", elements},
                 {"bytes", bytes},
                 {"dtypes", std::move(dtypes)}};
  if (metadata != nullptr) report.json["metadata"] = *metadata;
  report.json["tensors"] = std::move(tensors);
  return report;
}

InspectReport inspect_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  return inspect_tensors(path, "safetensors", file, &file.metadata());
}

InspectReport inspect_torch_file(const fs::path& path) {
  return inspect_tensors(path, "torch", TorchFile(path), nullptr);
}

[[noreturn]] void fail_unsupported(const fs::path& path, std::string_view what) {
  throw UnsupportedError(
      fmt::format("{}: unsupported kind of file: expected a model folder, a config, a tokenizer, a "
                  "checkpoint index, a safetensors file or one of torch.save, found {}",
                  printable_path(path), what));
}

InspectReport inspect_json(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.ends_with(".safetensors.index.json") || name.ends_with(".bin.index.json")) {
    return inspect_index(path);
  }
  if (name == kMetaConfigName) return inspect_meta_config(path);
  if (name == "tokenizer.json") return inspect_tokenizer(path);
  const nlohmann::json document = read_json_file(path, {.bytes = std::size_t{64} << 20});
  if (document.is_object()) {
    if (document.contains("weight_map")) return inspect_index(path);
    if (document.contains("model") && document["model"].is_object()) return inspect_tokenizer(path);
  }
  return inspect_config(path);
}

/// For files whose name says nothing.
InspectReport inspect_by_content(const fs::path& path) {
  const InputFile file(path);
  std::array<std::byte, 9> start{};
  const auto length = std::min<std::uint64_t>(start.size(), file.size());
  file.read(0, std::span(start).first(static_cast<std::size_t>(length)));
  // A header's length is below 2^32 and its text starts with a brace.
  const bool small_length = start[4] == std::byte{0} && start[5] == std::byte{0} &&
                            start[6] == std::byte{0} && start[7] == std::byte{0};
  if (length == start.size() && small_length && start[8] == std::byte{'{'}) {
    return inspect_safetensors(path);
  }
  if (length > 0 && start[0] == std::byte{'{'}) return inspect_json(path);
  if (start[0] == std::byte{'P'} && start[1] == std::byte{'K'}) return inspect_torch_file(path);
  fail_unsupported(path, length == 0 ? "an empty file" : "something else");
}

std::string scalar_text(const Json& value) {
  if (value.is_string()) return printable(value.get_ref<const std::string&>());
  if (value.is_array()) {
    std::string text = "[";
    for (const Json& item : value) {
      if (text.size() > 1) text += ", ";
      text += scalar_text(item);
    }
    return text + "]";
  }
  if (value.is_object()) {
    std::string text;
    for (const auto& [key, member] : value.items()) {
      if (!text.empty()) text += ", ";
      text += printable(key) + " " + scalar_text(member);
    }
    return text;
  }
  return value.is_null() ? "none" : value.dump();
}

bool is_table(const Json& value) {
  return value.is_array() && !value.empty() && value.front().is_object();
}

}  // namespace

std::string InspectReport::text() const {
  std::string out;
  const auto line = [&](int indent, std::string_view key, std::string_view value) {
    std::string text =
        fmt::format("{:{}}{:<{}} {}", "", indent, printable(key), 32 - indent, value);
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  };
  for (const auto& [key, value] : json.items()) {
    if (value.is_object() && !value.empty()) {
      line(0, key, "");
      for (const auto& [name, member] : value.items()) line(2, name, scalar_text(member));
    } else if (is_table(value)) {
      line(0, key, "");
      for (const Json& row : value) {
        // The first member names the row.
        Json rest = row;
        const std::string name = row.empty() ? "" : scalar_text(row.front());
        if (!rest.empty()) rest.erase(rest.begin());
        line(2, name, scalar_text(rest));
      }
    } else {
      line(0, key, scalar_text(value));
    }
  }
  return out;
}

InspectReport inspect(const fs::path& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) return inspect_folder(path);
  const std::string extension = path.extension().string();
  if (extension == ".safetensors") return inspect_safetensors(path);
  if (extension == ".json") return inspect_json(path);
  if (extension == ".model") return inspect_tokenizer(path);
  if (is_torch_file_name(path)) return inspect_torch_file(path);
  return inspect_by_content(path);
}

}  // namespace portolan
