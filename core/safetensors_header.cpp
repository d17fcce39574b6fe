// SPDX-License-Identifier: Apache-2.0
#include "core/safetensors_header.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>
#include <utility>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

using nlohmann::json;

/// The format's own limit.
constexpr std::uint64_t kMaximumHeaderBytes = 100'000'000;

struct FormatDType {
  std::string_view name;
  std::uint64_t bits;
  std::optional<DType> dtype;
};

constexpr std::array<FormatDType, 22> kFormatDTypes{
    {{"BOOL", 8, {}},         {"F4", 4, {}},           {"F6_E2M3", 6, {}},
     {"F6_E3M2", 6, {}},      {"U8", 8, DType::u8},    {"I8", 8, {}},
     {"F8_E5M2", 8, {}},      {"F8_E4M3", 8, {}},      {"F8_E8M0", 8, {}},
     {"F8_E4M3FNUZ", 8, {}},  {"F8_E5M2FNUZ", 8, {}},  {"I16", 16, {}},
     {"U16", 16, {}},         {"F16", 16, DType::f16}, {"BF16", 16, DType::bf16},
     {"I32", 32, DType::i32}, {"U32", 32, {}},         {"F32", 32, DType::f32},
     {"C64", 64, {}},         {"F64", 64, DType::f64}, {"I64", 64, DType::i64},
     {"U64", 64, {}}}};

const FormatDType* find_format_dtype(std::string_view name) {
  const auto* found = std::find_if(kFormatDTypes.begin(), kFormatDTypes.end(),
                                   [&](const FormatDType& each) { return each.name == name; });
  return found == kFormatDTypes.end() ? nullptr : found;
}

/// Builds the entries straight from the JSON events, without a document between.
class HeaderBuilder final : public JsonVisitor {
 public:
  HeaderBuilder(const std::string& source, SafetensorsHeader& header)
      : source_(source), header_(header) {}

  void scalar(json&& value) override {
    switch (place_) {
      case Place::outside:
        throw InputError(
            fmt::format("{}: header: expected an object, found {}", source_, describe(value)));
      case Place::header:
        fail("expected an object, found " + describe(value));
      case Place::metadata:
        if (!value.is_string()) {
          throw InputError(fmt::format("{}: field '__metadata__.{}': expected a string, found {}",
                                       source_, printable(key_), describe(value)));
        }
        header_.metadata.emplace(key_, std::move(value.get_ref<std::string&>()));
        return;
      case Place::tensor:
        if (key_ != "dtype") fail_field("expected a list, found " + describe(value));
        if (!value.is_string()) fail_field("expected a string, found " + describe(value));
        set_dtype(value.get_ref<const std::string&>());
        return;
      case Place::shape:
        entry_.shape.push_back(static_cast<std::int64_t>(whole_number(value)));
        return;
      case Place::offsets:
        if (offsets_ >= 2) fail_field("expected two numbers, found more");
        (offsets_ == 0 ? entry_.begin : entry_.end) = whole_number(value);
        ++offsets_;
        return;
    }
  }

  void begin_object() override {
    switch (place_) {
      case Place::outside:
        place_ = Place::header;
        return;
      case Place::header:
        if (key_ == "__metadata__") {
          place_ = Place::metadata;
          return;
        }
        entry_ = {};
        entry_.name = key_;
        has_dtype_ = has_shape_ = has_offsets_ = false;
        place_ = Place::tensor;
        return;
      default:
        fail_container("an object");
    }
  }

  void key(std::string&& name) override {
    key_ = std::move(name);
    if (place_ == Place::header && key_ == "__metadata__") {
      if (has_metadata_) throw InputError(source_ + ": field '__metadata__': appears twice");
      has_metadata_ = true;
    } else if (place_ == Place::metadata && header_.metadata.contains(key_)) {
      throw InputError(
          fmt::format("{}: field '__metadata__.{}': appears twice", source_, printable(key_)));
    } else if (place_ == Place::tensor) {
      bool* seen = key_ == "dtype"          ? &has_dtype_
                   : key_ == "shape"        ? &has_shape_
                   : key_ == "data_offsets" ? &has_offsets_
                                            : nullptr;
      if (seen == nullptr) fail_field("expected only dtype, shape and data_offsets");
      if (*seen) fail_field("appears twice");
      *seen = true;
    }
  }

  void end_object() override {
    if (place_ == Place::tensor) {
      if (!has_dtype_) fail("field 'dtype': expected a string, found no such field");
      if (!has_shape_) fail("field 'shape': expected a list, found no such field");
      if (!has_offsets_) fail("field 'data_offsets': expected two numbers, found no such field");
      header_.entries.push_back(std::move(entry_));
    }
    place_ = place_ == Place::header ? Place::outside : Place::header;
  }

  void begin_list() override {
    if (place_ == Place::tensor && key_ == "shape") {
      place_ = Place::shape;
    } else if (place_ == Place::tensor && key_ == "data_offsets") {
      place_ = Place::offsets;
      offsets_ = 0;
    } else {
      fail_container("a list");
    }
  }

  void end_list() override {
    if (place_ == Place::offsets && offsets_ != 2) {
      fail_field(fmt::format("expected two numbers, found {}", offsets_));
    }
    place_ = Place::tensor;
  }

 private:
  enum class Place { outside, header, metadata, tensor, shape, offsets };

  void set_dtype(const std::string& name) {
    const FormatDType* known = find_format_dtype(name);
    if (known == nullptr) {
      fail_field(
          fmt::format("expected a dtype such as F32 or BF16, found \"{}\"", printable(name)));
    }
    entry_.dtype_name = name;
    entry_.dtype = known->dtype;
  }

  std::uint64_t whole_number(const json& value) const {
    constexpr auto kMaximum = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMaximum) {
      fail_field(
          fmt::format("expected whole numbers from 0 to {}, found {}", kMaximum, describe(value)));
    }
    return value.get<std::uint64_t>();
  }

  [[noreturn]] void fail_container(std::string_view found) const {
    switch (place_) {
      case Place::outside:
        throw InputError(fmt::format("{}: header: expected an object, found {}", source_, found));
      case Place::header:
        fail(fmt::format("expected an object, found {}", found));
      case Place::metadata:
        throw InputError(fmt::format("{}: field '__metadata__.{}': expected a string, found {}",
                                     source_, printable(key_), found));
      case Place::tensor:
        fail_field(
            fmt::format("expected {}, found {}", key_ == "dtype" ? "a string" : "a list", found));
      default:
        fail_field(fmt::format("expected whole numbers, found {}", found));
    }
  }

  [[noreturn]] void fail_field(const std::string& sentence) const {
    fail(fmt::format("field '{}': {}", printable(key_), sentence));
  }

  [[noreturn]] void fail(const std::string& sentence) const {
    if (place_ == Place::header && key_ == "__metadata__") {
      throw InputError(fmt::format("{}: field '__metadata__': {}", source_, sentence));
    }
    throw InputError(fmt::format("{}: tensor '{}': {}", source_,
                                 printable(place_ == Place::header ? key_ : entry_.name),
                                 sentence));
  }

  const std::string& source_;
  SafetensorsHeader& header_;
  Place place_ = Place::outside;
  std::string key_;
  SafetensorsEntry entry_;
  bool has_metadata_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  int offsets_ = 0;
};

/// The byte range must be what dtype and shape need.
void check_size(const SafetensorsEntry& entry, const std::string& source) {
  const auto fail = [&](const std::string& sentence) {
    throw InputError(fmt::format("{}: tensor '{}': {}", source, printable(entry.name), sentence));
  };
  // Zero extents are left out at first, so that no product of some of the extents can overflow.
  std::int64_t product = static_cast<std::int64_t>(find_format_dtype(entry.dtype_name)->bits);
  bool empty = false;
  for (const std::int64_t extent : entry.shape) {
    empty = empty || extent == 0;
    if (extent != 0 && __builtin_mul_overflow(product, extent, &product)) {
      fail(fmt::format("field 'shape': the size of {} overflows", shape_text(entry.shape)));
    }
  }
  const auto bits = empty ? std::uint64_t{0} : static_cast<std::uint64_t>(product);
  if (bits % 8 != 0) {
    fail(fmt::format("field 'shape': {} elements of {} end inside a byte", shape_text(entry.shape),
                     entry.dtype_name));
  }
  if (entry.begin > entry.end) {
    fail(fmt::format("field 'data_offsets': expected begin <= end, found [{}, {}]", entry.begin,
                     entry.end));
  }
  if (entry.byte_size() != bits / 8) {
    fail(fmt::format("field 'data_offsets': expected {} bytes for {} {}, found {}", bits / 8,
                     entry.dtype_name, shape_text(entry.shape), entry.byte_size()));
  }
}

/// The byte ranges, in order, must cover the data exactly.
void check_coverage(const SafetensorsHeader& header, std::uint64_t data_size,
                    const std::string& source) {
  std::uint64_t covered = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin != covered) {
      throw InputError(fmt::format(
          "{}: tensor '{}': field 'data_offsets': expected to begin at {}, where the tensor before "
          "ends, found {}",
          source, printable(entry.name), covered, entry.begin));
    }
    if (entry.end > data_size) {
      throw InputError(fmt::format(
          "{}: tensor '{}': field 'data_offsets': expected to end within the {} bytes of data, "
          "found {}",
          source, printable(entry.name), data_size, entry.end));
    }
    covered = entry.end;
  }
  if (covered != data_size) {
    throw InputError(fmt::format("{}: expected {} bytes of data, as the header says, found {}",
                                 source, covered, data_size));
  }
}

void check_names(const SafetensorsHeader& header, const std::string& source) {
  std::vector<std::string_view> names;
  names.reserve(header.entries.size());
  for (const SafetensorsEntry& entry : header.entries) names.emplace_back(entry.name);
  std::sort(names.begin(), names.end());
  const auto repeated = std::adjacent_find(names.begin(), names.end());
  if (repeated != names.end()) {
    throw InputError(fmt::format("{}: tensor '{}': appears twice", source, printable(*repeated)));
  }
}

}  // namespace

std::string_view safetensors_name_of(DType dtype) {
  for (const FormatDType& each : kFormatDTypes) {
    if (each.dtype == dtype) return each.name;
  }
  return "";
}

std::uint64_t safetensors_header_length(std::span<const std::byte> prefix, std::uint64_t file_size,
                                        const std::string& source) {
  if (prefix.size() < kSafetensorsPrefixBytes || file_size < kSafetensorsPrefixBytes) {
    throw InputError(fmt::format(
        "{}: expected a safetensors file, at least 8 bytes, found {} bytes", source, file_size));
  }
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kSafetensorsPrefixBytes; ++i) {
    length |= std::to_integer<std::uint64_t>(prefix[i]) << (8 * i);
  }
  const std::uint64_t limit = std::min(kMaximumHeaderBytes, file_size - kSafetensorsPrefixBytes);
  if (length < 2 || length > limit) {
    throw InputError(
        fmt::format("{}: not a safetensors file: its first 8 bytes should give the length of a "
                    "header within its "
                    "{} bytes, found {}",
                    source, file_size, length));
  }
  return length;
}

SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_size,
                                           const std::string& source) {
  // JSON in general may start with white space or a byte order mark; a header may not.
  if (!text.starts_with('{')) {
    throw InputError(fmt::format("{}: header: expected an object, found text that starts with '{}'",
                                 source, printable(text.substr(0, 12))));
  }
  SafetensorsHeader header;
  HeaderBuilder builder(source, header);
  visit_json(text, source, {.bytes = kMaximumHeaderBytes, .depth = 8}, builder);
  for (const SafetensorsEntry& entry : header.entries) check_size(entry, source);
  check_names(header, source);
  std::sort(header.entries.begin(), header.entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  check_coverage(header, data_size, source);
  header.data_begin = kSafetensorsPrefixBytes + text.size();
  return header;
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& source) {
  const std::uint64_t length = safetensors_header_length(file, file.size(), source);
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kSafetensorsPrefixBytes,
                              static_cast<std::size_t>(length));
  return parse_safetensors_header(text, file.size() - kSafetensorsPrefixBytes - length, source);
}

}  // namespace portolan
