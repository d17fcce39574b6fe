// SPDX-License-Identifier: Apache-2.0
#include "core/safetensors_writer.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "core/safetensors.hpp"

namespace portolan {
namespace {

std::string system_message(int error) { return std::generic_category().message(error); }

/// A JSON string; UsageError where `text` is not UTF-8.
std::string json_string(std::string_view text, const std::string& file) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw UsageError(
        fmt::format("{}: cannot write the name '{}': expected UTF-8", file, printable(text)));
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<SafetensorsTensor> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), name_(printable_path(path)) {
  std::sort(tensors.begin(), tensors.end(),
            [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
              const std::size_t a_size = size_of(a.dtype);
              const std::size_t b_size = size_of(b.dtype);
              return a_size != b_size ? a_size > b_size : a.name < b.name;
            });
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      if (header.back() != '{') header += ',';
      header += json_string(key, name_) + ":" + json_string(value, name_);
    }
    header += '}';
  }
  std::uint64_t offset = 0;
  for (const SafetensorsTensor& tensor : tensors) {
    require(tensor.name != "__metadata__", "{}: no tensor may be called '__metadata__'", name_);
    std::uint64_t end = 0;
    require(!__builtin_add_overflow(offset, tensor.checked_size(name_), &end),
            "{}: the tensors exceed 2^64 bytes", name_);
    const bool added = progress_.try_emplace(tensor.name, Progress{offset, end}).second;
    require(added, "{}: expected one tensor of each name, found '{}' twice", name_,
            printable(tensor.name));
    if (header.size() > 1) header += ',';
    header += fmt::format(R"({}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})",
                          json_string(tensor.name, name_), safetensors_name_of(tensor.dtype),
                          nlohmann::json(tensor.shape).dump(), offset, end);
    offset = end;
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');

  std::string prefix;
  for (std::size_t i = 0; i < 8; ++i) {
    prefix += static_cast<char>((static_cast<std::uint64_t>(header.size()) >> (8 * i)) & 0xFFu);
  }
  header.insert(0, prefix);
  for (auto& [name, progress] : progress_) {
    progress.position += header.size();
    progress.end += header.size();
  }
  create_temporary();
  try {
    write(0, std::as_bytes(std::span(header)));
  } catch (...) {
    ::close(descriptor_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void SafetensorsWriter::create_temporary() {
  std::error_code ignored;
  const auto status = std::filesystem::status(path_, ignored);
  // Renaming onto a device such as /dev/null would replace the device.
  require(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status),
          "{}: expected the name of a regular file to write", name_);
  constexpr mode_t kReadableAndWritable = 0666;  // less what the process' umask takes away
  // A file without a name goes with the process, however it ends. Not every file system has them.
  const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
  descriptor_ = ::open(folder.c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, kReadableAndWritable);
  if (descriptor_ >= 0 && ::access(descriptor_path().c_str(), F_OK) == 0) return;
  if (descriptor_ >= 0) ::close(descriptor_);  // no /proc to name it by
  const bool created = take_free_name([this](const char* name) {
    descriptor_ = ::open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kReadableAndWritable);
    return descriptor_ >= 0;
  });
  if (!created) {
    throw UsageError(fmt::format("{}: cannot create: {}", name_, system_message(errno)));
  }
}

bool SafetensorsWriter::take_free_name(const std::function<bool(const char*)>& take) {
  constexpr int kAttempts = 100;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    temporary_ = path_;
    temporary_ += fmt::format(".partial-{}-{}", ::getpid(), attempt);
    if (take(temporary_.c_str())) return true;
    if (errno != EEXIST) break;
  }
  temporary_.clear();
  return false;
}

std::string SafetensorsWriter::descriptor_path() const {
  return fmt::format("/proc/self/fd/{}", descriptor_);
}

void SafetensorsWriter::append(std::string_view name, std::span<const std::byte> bytes) {
  const auto found = progress_.find(name);
  require(found != progress_.end(), "{}: no tensor '{}' was announced", name_, printable(name));
  Progress& progress = found->second;
  require(bytes.size() <= progress.end - progress.position,
          "{}: tensor '{}': expected {} more bytes, found {}", name_, printable(name),
          progress.end - progress.position, bytes.size());
  write(progress.position, bytes);
  progress.position += bytes.size();
}

void SafetensorsWriter::finish() {
  require(descriptor_ >= 0, "{}: already finished", name_);
  for (const auto& [name, progress] : progress_) {
    require(progress.position == progress.end, "{}: tensor '{}': {} bytes are missing", name_,
            printable(name), progress.end - progress.position);
  }
  // A name that is taken cannot be given to a file without one, but another file renamed to it.
  const bool named = !temporary_.empty() || take_free_name([this](const char* name) {
    return ::linkat(AT_FDCWD, descriptor_path().c_str(), AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0;
  });
  if (!named) throw Error(fmt::format("{}: cannot write: {}", name_, system_message(errno)));
  // Network file systems report a full disk here.
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw Error(fmt::format("{}: cannot write: {}", name_, system_message(errno)));
  }
  temporary_.clear();
}

void SafetensorsWriter::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  require(descriptor_ >= 0, "{}: already finished", name_);
  while (!bytes.empty()) {
    const ssize_t count =
        ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      throw Error(fmt::format("{}: cannot write: {}", name_, system_message(errno)));
    }
    offset += static_cast<std::uint64_t>(count);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

}  // namespace portolan
