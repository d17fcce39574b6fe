// SPDX-License-Identifier: Apache-2.0
#include "core/json_file.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.hpp"
#include "core/mapped_file.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

using nlohmann::json;

/// Adapts the parser's events and knows, at any time, which field it is in.
class StrictEvents final : public nlohmann::json_sax<json> {
 public:
  StrictEvents(const std::string& source, const JsonLimits& limits, JsonVisitor& visitor)
      : source_(source), limits_(limits), visitor_(visitor) {}

  bool null() override { return scalar(json(nullptr)); }
  bool boolean(bool value) override { return scalar(json(value)); }
  bool number_integer(std::int64_t value) override { return scalar(json(value)); }
  bool number_unsigned(std::uint64_t value) override { return scalar(json(value)); }
  bool number_float(double value, const std::string& text) override {
    if (!std::isfinite(value)) fail(fmt::format("the number {} is out of range", printable(text)));
    return scalar(json(value));
  }
  bool string(std::string& value) override { return scalar(json(std::move(value))); }
  bool binary(json::binary_t& /*value*/) override { return false; }  // never occurs in text

  bool start_object(std::size_t /*size*/) override {
    open();
    visitor_.begin_object();
    return true;
  }
  bool key(std::string& name) override {
    keys_.back() = printable(name);
    visitor_.key(std::move(name));
    return true;
  }
  bool end_object() override {
    close();
    visitor_.end_object();
    return true;
  }
  bool start_array(std::size_t /*size*/) override {
    open();
    visitor_.begin_list();
    return true;
  }
  bool end_array() override {
    close();
    visitor_.end_list();
    return true;
  }

  bool parse_error(std::size_t /*position*/, const std::string& /*last_token*/,
                   const json::exception& error) override {
    // Drops the library's "[json.exception.parse_error.101] ".
    std::string_view text = error.what();
    if (const auto end = text.find("] "); end != std::string_view::npos)
      text.remove_prefix(end + 2);
    fail(fmt::format("not valid JSON: {}", printable(text, 240)));
  }

 private:
  bool scalar(json&& value) {
    visitor_.scalar(std::move(value));
    forget_key();
    return true;
  }

  void open() {
    if (static_cast<int>(keys_.size()) >= limits_.depth) {
      fail(fmt::format("expected at most {} levels of nesting, found more", limits_.depth));
    }
    keys_.emplace_back();
  }

  void close() {
    keys_.pop_back();
    forget_key();
  }

  /// A complete value has been read: what follows is not part of its field.
  void forget_key() {
    if (!keys_.empty()) keys_.back().clear();
  }

  [[noreturn]] void fail(const std::string& sentence) const {
    std::string field;
    for (const std::string& name : keys_) {
      if (name.empty()) continue;
      if (!field.empty()) field += '.';
      field += name;
    }
    if (field.empty()) throw InputError(fmt::format("{}: {}", source_, sentence));
    throw InputError(fmt::format("{}: field '{}': {}", source_, field, sentence));
  }

  const std::string& source_;
  const JsonLimits& limits_;
  JsonVisitor& visitor_;
  /// One entry for each open list or object: the key being read, or nothing.
  std::vector<std::string> keys_;
};

/// Builds the document.
class DocumentBuilder final : public JsonVisitor {
 public:
  explicit DocumentBuilder(const std::string& source) : source_(source) {}

  void scalar(json&& value) override { place(std::move(value)); }
  void begin_object() override { open_.push_back(place(json::object())); }
  void end_object() override { open_.pop_back(); }
  void begin_list() override { open_.push_back(place(json::array())); }
  void end_list() override { open_.pop_back(); }
  void key(std::string&& name) override {
    if (open_.back()->contains(name)) {
      throw InputError(
          fmt::format("{}: field '{}': appears twice in one object", source_, printable(name)));
    }
    key_ = std::move(name);
  }

  json take() { return std::move(document_); }

 private:
  json* place(json&& value) {
    if (open_.empty()) {
      document_ = std::move(value);
      return &document_;
    }
    json& parent = *open_.back();
    // A list's last element is the only open one, so growing the list moves no open element.
    if (parent.is_array()) return &parent.emplace_back(std::move(value));
    json& member = parent[key_];
    member = std::move(value);
    return &member;
  }

  const std::string& source_;
  json document_;
  std::vector<json*> open_;
  std::string key_;
};

}  // namespace

void visit_json(std::string_view text, const std::string& source, const JsonLimits& limits,
                JsonVisitor& visitor) {
  if (text.size() > limits.bytes) {
    throw InputError(fmt::format("{}: expected at most {} bytes of JSON, found {}", source,
                                 limits.bytes, text.size()));
  }
  if (text.empty()) throw InputError(fmt::format("{}: expected JSON, found nothing", source));
  // The parser would take a zero byte for the end of the text and ignore what follows.
  if (const auto zero = text.find('\0'); zero != std::string_view::npos) {
    throw InputError(fmt::format("{}: not valid JSON: expected UTF-8 text, found a zero byte at {}",
                                 source, zero));
  }
  StrictEvents events(source, limits, visitor);
  json::sax_parse(text.begin(), text.end(), &events);
}

json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits) {
  DocumentBuilder builder(source);
  visit_json(text, source, limits, builder);
  return builder.take();
}

json read_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
  return parse_json(read_text_file(path, limits.bytes), printable_path(path), limits);
}

std::string describe(const json& value) {
  if (value.is_array()) return "a list";
  if (value.is_object()) return "an object";
  if (value.is_string()) {
    return fmt::format("the string \"{}\"", printable(value.get_ref<const std::string&>(), 80));
  }
  return value.dump();
}

JsonObject::JsonObject(const json& value, std::string source, std::string path)
    : value_(&value), source_(std::move(source)), path_(std::move(path)) {
  if (value.is_object()) return;
  if (path_.empty()) {
    throw InputError(fmt::format("{}: expected a JSON object, found {}", source_, describe(value)));
  }
  throw InputError(
      fmt::format("{}: field '{}': expected an object, found {}", source_, path_, describe(value)));
}

const json* JsonObject::find(std::string_view name) const {
  const auto member = value_->find(name);
  return member == value_->end() ? nullptr : &*member;
}

bool JsonObject::has(std::string_view name) const {
  const json* member = find(name);
  return member != nullptr && !member->is_null();
}

std::int64_t JsonObject::integer(std::string_view name, std::int64_t minimum,
                                 std::int64_t maximum) const {
  const auto expected = [&] { return fmt::format("an integer from {} to {}", minimum, maximum); };
  const json* member = find(name);
  if (member == nullptr || !member->is_number_integer()) fail(name, expected());
  // is_number_unsigned() also holds for values that only std::uint64_t can represent.
  if (member->is_number_unsigned() &&
      member->get<std::uint64_t>() >
          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    fail(name, expected());
  }
  const auto value = member->get<std::int64_t>();
  if (value < minimum || value > maximum) fail(name, expected());
  return value;
}

double JsonObject::number(std::string_view name, double minimum, double maximum) const {
  const json* member = find(name);
  if (member != nullptr && member->is_number()) {
    const auto value = member->get<double>();
    if (value >= minimum && value <= maximum) return value;
  }
  fail(name, fmt::format("a number from {} to {}", minimum, maximum));
}

double JsonObject::positive_number(std::string_view name) const {
  const json* member = find(name);
  if (member != nullptr && member->is_number()) {
    const auto value = member->get<double>();
    if (value > 0.0 && std::isfinite(value)) return value;
  }
  fail(name, "a number above 0");
}

bool JsonObject::boolean(std::string_view name) const {
  const json* member = find(name);
  if (member == nullptr || !member->is_boolean()) fail(name, "true or false");
  return member->get<bool>();
}

bool JsonObject::boolean(std::string_view name, bool absent) const {
  return has(name) ? boolean(name) : absent;
}

std::string JsonObject::text(std::string_view name) const {
  const json* member = find(name);
  if (member == nullptr || !member->is_string()) fail(name, "a string");
  return member->get<std::string>();
}

JsonObject JsonObject::object(std::string_view name) const {
  const json* member = find(name);
  if (member == nullptr) fail(name, "an object");
  return {*member, source_, field(name)};
}

std::vector<JsonObject> JsonObject::objects(std::string_view name) const {
  const json* member = find(name);
  if (member == nullptr || !member->is_array()) fail(name, "a list");
  std::vector<JsonObject> items;
  items.reserve(member->size());
  for (const json& item : *member) {
    items.emplace_back(item, source_, fmt::format("{}[{}]", field(name), items.size()));
  }
  return items;
}

void JsonObject::fail(std::string_view name, std::string_view expected) const {
  const json* member = find(name);
  refuse(name, fmt::format("expected {}, found {}", expected,
                           member == nullptr ? "no such field" : describe(*member)));
}

void JsonObject::refuse(std::string_view name, std::string_view sentence) const {
  throw InputError(fmt::format("{}: field '{}': {}", source_, field(name), sentence));
}

std::string JsonObject::field(std::string_view name) const {
  const std::string last = printable(name);
  return path_.empty() ? last : path_ + "." + last;
}

}  // namespace portolan
