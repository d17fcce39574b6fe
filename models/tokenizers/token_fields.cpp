// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/token_fields.hpp"

#include "core/printable.hpp"

namespace portolan {

PrependScheme read_prepend_scheme(const JsonObject& object) {
  const bool prefix = object.boolean("add_prefix_space", true);
  if (!object.has("prepend_scheme")) return prefix ? PrependScheme::always : PrependScheme::never;
  const std::string scheme = object.text("prepend_scheme");
  if (scheme == "never") return PrependScheme::never;
  if (!prefix) object.fail("prepend_scheme", "never, as add_prefix_space is false");
  if (scheme == "always") return PrependScheme::always;
  if (scheme == "first") return PrependScheme::first;
  object.fail("prepend_scheme", "always, first or never");
}

std::string read_character(const JsonObject& object, std::string_view name) {
  std::string text = object.text(name);
  if (text.empty() || utf8_character_length(text) != text.size()) {
    object.fail(name, "one character");
  }
  return text;
}

TokenId read_token_id(const JsonObject& object, std::string_view name) {
  return static_cast<TokenId>(object.integer(name, 0, kTokenIdLimit - 1));
}

}  // namespace portolan
