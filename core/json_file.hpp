// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Strict reading of JSON (RFC 8259) that others wrote. Every failure is an InputError of one line,
/// `SOURCE: field 'a.b': expected ..., found ...`, where SOURCE is the path as it was given.
namespace portolan {

struct JsonLimits {
  /// A parsed text takes a small multiple of its bytes, so this bounds the memory.
  std::size_t bytes = std::size_t{16} << 20;
  /// Lists and objects inside each other.
  int depth = 64;
};

/// Receives one JSON text, value by value. An implementation may throw to end the parse.
class JsonVisitor {
 public:
  virtual ~JsonVisitor() = default;
  /// null, a boolean, a number or a string. Integers come as std::int64_t or std::uint64_t where
  /// they fit; a number without minus sign is unsigned.
  virtual void scalar(nlohmann::json&& value) = 0;
  virtual void begin_object() = 0;
  /// Keys may repeat: refusing them is up to the visitor, which knows what it has already stored.
  virtual void key(std::string&& name) = 0;
  virtual void end_object() = 0;
  virtual void begin_list() = 0;
  virtual void end_list() = 0;
};

/// Parses `text` without building a document. Refuses what is not JSON to the letter: comments,
/// trailing commas, NaN and infinity, numbers beyond double, text after the value, invalid UTF-8,
/// lone surrogates, and nesting beyond the limit. Needs no stack that grows with the text.
void visit_json(std::string_view text, const std::string& source, const JsonLimits& limits,
                JsonVisitor& visitor);

/// The document in `text`; as visit_json, and refuses a key that appears twice in one object.
[[nodiscard]] nlohmann::json parse_json(std::string_view text, const std::string& source,
                                        const JsonLimits& limits = {});

/// The document in a file.
[[nodiscard]] nlohmann::json read_json_file(const std::filesystem::path& path,
                                            const JsonLimits& limits = {});

/// What a value is, for "found ...": `the string "8"`, `8.5`, `null`, `a list`.
[[nodiscard]] std::string describe(const nlohmann::json& value);

/// A view of one JSON object whose accessors check type and range. It does not own the object.
class JsonObject {
 public:
  /// Throws InputError unless `value` is an object. `source` starts every message; `path` names the
  /// object within the document and is empty for the outermost one.
  JsonObject(const nlohmann::json& value, std::string source, std::string path = {});

  [[nodiscard]] const std::string& source() const noexcept { return source_; }
  [[nodiscard]] const nlohmann::json& members() const noexcept { return *value_; }
  /// Present and not null.
  [[nodiscard]] bool has(std::string_view name) const;
  /// The member, or nullptr.
  [[nodiscard]] const nlohmann::json* find(std::string_view name) const;

  /// Required members: absent or null is an error.
  [[nodiscard]] std::int64_t integer(std::string_view name, std::int64_t minimum,
                                     std::int64_t maximum) const;
  /// A finite number in [minimum, maximum]; integers count.
  [[nodiscard]] double number(std::string_view name, double minimum, double maximum) const;
  /// A finite number above 0.
  [[nodiscard]] double positive_number(std::string_view name) const;
  [[nodiscard]] bool boolean(std::string_view name) const;
  /// The same, but `absent` where there is no such member.
  [[nodiscard]] bool boolean(std::string_view name, bool absent) const;
  [[nodiscard]] std::string text(std::string_view name) const;
  [[nodiscard]] JsonObject object(std::string_view name) const;
  /// A list that holds objects only.
  [[nodiscard]] std::vector<JsonObject> objects(std::string_view name) const;

  /// Throws "SOURCE: field 'path.name': expected EXPECTED, found ...", describing the member.
  [[noreturn]] void fail(std::string_view name, std::string_view expected) const;
  /// Throws "SOURCE: field 'path.name': SENTENCE".
  [[noreturn]] void refuse(std::string_view name, std::string_view sentence) const;

 private:
  [[nodiscard]] std::string field(std::string_view name) const;

  const nlohmann::json* value_;
  std::string source_;
  std::string path_;
};

}  // namespace portolan
