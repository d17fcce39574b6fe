// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/pickle_testing.hpp"

namespace portolan::testing {
namespace {

/// CRC-32 of zip archives, bit by bit.
std::uint32_t checksum(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes) {
    crc ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0xEDB88320U : 0U);
  }
  return ~crc;
}

}  // namespace

std::string number_bytes(std::uint64_t value, int width) {
  std::string bytes;
  for (int i = 0; i < width; ++i) bytes += static_cast<char>((value >> (8 * i)) & 0xFFU);
  return bytes;
}

namespace pickle {

std::string text(std::string_view value) {
  return std::string("X") + number_bytes(value.size(), 4) + std::string(value);
}

std::string integer(std::int64_t value) {
  return std::string("\x8a\x08") + number_bytes(static_cast<std::uint64_t>(value), 8);
}

std::string global(std::string_view module, std::string_view name) {
  return std::string("c").append(module).append("\n").append(name).append("\n");
}

std::string tuple(const std::vector<std::string>& items) {
  std::string bytes = "(";
  for (const std::string& item : items) bytes += item;
  return bytes + "t";
}

std::string integers(const std::vector<std::int64_t>& values) {
  std::vector<std::string> items;
  for (const std::int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}

std::string document(const std::string& value) { return std::string("\x80\x02") + value + "."; }

}  // namespace pickle

std::string PickledTensor::bytes() const {
  const std::string storage =
      pickle::tuple({pickle::text("storage"), pickle::global("torch", storage_type),
                     pickle::text(key), pickle::text("cpu"), pickle::integer(storage_elements)}) +
      "Q";
  return pickle::global("torch._utils", "_rebuild_tensor_v2") +
         pickle::tuple({storage, pickle::integer(offset), pickle::integers(shape),
                        pickle::integers(strides), "\x89",
                        pickle::global("collections", "OrderedDict") + ")R"}) +
         "R";
}

std::string pickled_dictionary(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string bytes = "}(";
  for (const auto& [name, value] : items) bytes += pickle::text(name) + value;
  return bytes + "u";
}

std::string zip_bytes(const std::vector<StoredZipEntry>& entries) {
  std::string archive;
  std::string directory;
  for (const StoredZipEntry& entry : entries) {
    // Both headers share these fields: version, flags, method, time, date, checksum, sizes, name.
    const std::string fields =
        number_bytes(20, 2) + number_bytes(0, 2) + number_bytes(entry.method, 2) +
        number_bytes(0, 4) + number_bytes(checksum(entry.content), 4) +
        number_bytes(entry.content.size(), 4) + number_bytes(entry.content.size(), 4) +
        number_bytes(entry.name.size(), 2) + number_bytes(0, 2);
    directory += std::string("PK\x01\x02") + number_bytes(20, 2) + fields + std::string(10, '\0') +
                 number_bytes(archive.size(), 4) + entry.name;
    archive += std::string("PK\x03\x04") + fields + entry.name + entry.content;
  }
  const std::string end = std::string("PK\x05\x06") + number_bytes(0, 4) +
                          number_bytes(entries.size(), 2) + number_bytes(entries.size(), 2) +
                          number_bytes(directory.size(), 4) + number_bytes(archive.size(), 4) +
                          number_bytes(0, 2);
  return archive + directory + end;
}

std::string torch_bytes(const std::string& pickle, const std::string& storage) {
  return zip_bytes({{"archive/data.pkl", pickle}, {"archive/data/0", storage}});
}

}  // namespace portolan::testing
