// SPDX-License-Identifier: Apache-2.0
#include "models/companion_files.hpp"

#include <system_error>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

constexpr const char* kCompanions[] = {"added_tokens.json",
                                       "chat_template.jinja",
                                       "chat_template.json",
                                       "generation_config.json",
                                       "merges.txt",
                                       "special_tokens_map.json",
                                       "tokenizer.json",
                                       "tokenizer.model",
                                       "tokenizer_config.json",
                                       "vocab.json"};

}  // namespace

void copy_companion_files(const std::filesystem::path& from, const std::filesystem::path& to) {
  for (const char* name : kCompanions) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(from / name, error)) continue;
    std::filesystem::copy_file(from / name, to / name,
                               std::filesystem::copy_options::overwrite_existing, error);
    if (error) {
      throw Error(fmt::format("{}: cannot be copied: {}", printable((from / name).string()),
                              error.message()));
    }
  }
}

}  // namespace portolan
