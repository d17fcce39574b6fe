// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/post_processor.hpp"

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace portolan {
namespace {

using IsToken = std::function<bool(TokenId)>;

TokenId check_id(const JsonObject& object, std::string_view name, const nlohmann::json& value,
                 const IsToken& is_token) {
  if (value.is_number_integer() && (value.is_number_unsigned() || value >= 0) &&
      value < kTokenIdLimit && is_token(value.get<TokenId>())) {
    return value.get<TokenId>();
  }
  object.refuse(name, fmt::format("expected the id of a token, found {}", describe(value)));
}

/// [TOKEN, ID]
TokenId read_pair(const JsonObject& object, std::string_view name, const IsToken& is_token) {
  const nlohmann::json* pair = object.find(name);
  if (pair == nullptr || !pair->is_array() || pair->size() != 2 || !(*pair)[0].is_string()) {
    object.fail(name, "a list of a token and its id");
  }
  return check_id(object, name, (*pair)[1], is_token);
}

std::vector<TokenId> read_ids(const JsonObject& object, const IsToken& is_token) {
  const nlohmann::json* ids = object.find("ids");
  if (ids == nullptr || !ids->is_array()) object.fail("ids", "a list of ids");
  std::vector<TokenId> result;
  for (const nlohmann::json& id : *ids) {
    result.push_back(check_id(object, "ids", id, is_token));
  }
  return result;
}

PostProcessor read_template(const JsonObject& object, const IsToken& is_token) {
  PostProcessor result;
  const JsonObject tokens = object.object("special_tokens");
  bool behind_text = false;
  for (const JsonObject& piece : object.objects("single")) {
    if (piece.has("Sequence")) {
      const JsonObject sequence = piece.object("Sequence");
      if (sequence.text("id") != "A") sequence.fail("id", "A, the only text there is");
      if (behind_text) piece.refuse("Sequence", "the text appears twice");
      behind_text = true;
      continue;
    }
    const JsonObject special = piece.object("SpecialToken");
    const std::string name = special.text("id");
    if (!tokens.has(name)) special.fail("id", "one of those under special_tokens");
    const auto ids = read_ids(tokens.object(name), is_token);
    auto& side = behind_text ? result.suffix : result.prefix;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!behind_text) object.refuse("single", "the text itself is missing");
  return result;
}

}  // namespace

PostProcessor read_post_processor(const JsonObject& object,
                                  const std::function<bool(TokenId)>& is_token) {
  const std::string type = object.text("type");
  // It only trims offsets.
  if (type == "ByteLevel") return {};
  if (type == "RobertaProcessing" || type == "BertProcessing") {
    return {{read_pair(object, "cls", is_token)}, {read_pair(object, "sep", is_token)}};
  }
  if (type == "TemplateProcessing") return read_template(object, is_token);
  if (type != "Sequence") {
    object.fail("type",
                "one of Sequence, ByteLevel, TemplateProcessing, RobertaProcessing, "
                "BertProcessing");
  }
  PostProcessor result;
  for (const JsonObject& each : object.objects("processors")) {
    // Later ones go round what earlier ones made.
    const PostProcessor outer = read_post_processor(each, is_token);
    result.prefix.insert(result.prefix.begin(), outer.prefix.begin(), outer.prefix.end());
    result.suffix.insert(result.suffix.end(), outer.suffix.begin(), outer.suffix.end());
  }
  return result;
}

}  // namespace portolan
