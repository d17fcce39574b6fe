// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <string>
#include <system_error>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/mapped_file.hpp"
#include "core/printable.hpp"
#include "models/tokenizers/tokenizer.hpp"
#include "models/tokenizers/tokenizer_json.hpp"
#include "models/tokenizers/tokenizer_sentencepiece.hpp"
#include "models/tokenizers/tokenizer_tiktoken.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

/// Each kind of special token by the name that files have for it.
constexpr std::array<std::pair<const char*, std::optional<TokenId> SpecialTokens::*>, 5> kNames{
    {{"bos_token", &SpecialTokens::bos},
     {"eos_token", &SpecialTokens::eos},
     {"unk_token", &SpecialTokens::unknown},
     {"pad_token", &SpecialTokens::pad},
     {"mask_token", &SpecialTokens::mask}}};

/// Takes over what `file` says of special tokens: a token's text, or an object with its `content`.
/// Text that is no token is passed over, as published files name tokens that were never added.
void read_special_tokens(const fs::path& file, const Tokenizer& tokenizer, SpecialTokens& special) {
  std::error_code error;
  if (!fs::exists(file, error)) return;
  const nlohmann::json document = read_json_file(file);
  const JsonObject root(document, printable(file.native(), 4096));
  for (const auto& [name, member] : kNames) {
    if (!root.has(name)) continue;
    const bool is_object = root.find(name)->is_object();
    const std::string content = is_object ? root.object(name).text("content") : root.text(name);
    if (const auto id = tokenizer.find(content)) special.*member = id;
  }
}

Tokenizer read_tokenizer_file(const fs::path& path) {
  const std::string source = printable(path.native(), 4096);
  const std::string bytes = read_text_file(path, kLargestTokenizerFile);
  const std::size_t first = bytes.find_first_not_of(" \t\r\n");
  const bool is_json =
      path.extension() == ".json" || (first != std::string::npos && bytes[first] == '{');
  if (is_json) return parse_tokenizer_json(bytes, source);
  if (looks_like_tiktoken(bytes)) return parse_tokenizer_tiktoken(bytes, source);
  return parse_tokenizer_sentencepiece(bytes, source);
}

}  // namespace

std::optional<fs::path> find_tokenizer(const fs::path& folder) {
  std::error_code error;
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (fs::exists(folder / name, error)) return folder / name;
  }
  return std::nullopt;
}

Tokenizer load_tokenizer(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) return read_tokenizer_file(path);
  const auto file = find_tokenizer(path);
  if (!file) {
    throw InputError(fmt::format("{}: expected tokenizer.json or tokenizer.model, found neither",
                                 printable(path.native(), 4096)));
  }
  Tokenizer tokenizer = read_tokenizer_file(*file);
  SpecialTokens special = tokenizer.special();
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    read_special_tokens(path / name, tokenizer, special);
  }
  tokenizer.set_special(special);
  return tokenizer;
}

}  // namespace portolan
