// SPDX-License-Identifier: Apache-2.0
#include "apps/output_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what) {
  throw Error(fmt::format("{}: {}: {}", printable(path.string()), what, std::strerror(errno)));
}

constexpr std::string_view kSuffix = "XXXXXX";

/// Whether files can be written into a folder; errno says why not.
bool takes_files(const std::filesystem::path& folder) {
  std::string probe = (folder / ".portolan-XXXXXX").string();
  const int descriptor = ::mkstemp(probe.data());
  if (descriptor < 0) return false;
  ::close(descriptor);
  ::unlink(probe.c_str());
  return true;
}

/// Locks a folder for this process by flock(2); none where that fails.
FileDescriptor lock(const std::filesystem::path& folder, int operation) {
  FileDescriptor descriptor(
      ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (descriptor.is_open() && ::flock(descriptor.get(), operation) != 0) descriptor.reset();
  return descriptor;
}

/// Removes the folders of that name that no process has locked.
void remove_abandoned(const std::filesystem::path& parent, const std::string& prefix) {
  std::error_code ignored;
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(parent, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix) && name.size() == prefix.size() + kSuffix.size()) {
      found.push_back(entry.path());
    }
  }
  for (const std::filesystem::path& folder : found) {
    const FileDescriptor held = lock(folder, LOCK_EX | LOCK_NB);
    if (held.is_open()) std::filesystem::remove_all(folder, ignored);
  }
}

}  // namespace

void prepare_output_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error && !std::filesystem::is_directory(folder)) {
    throw UsageError(fmt::format("{}: the output folder cannot be created: {}",
                                 printable(folder.string()), error.message()));
  }
  if (!std::filesystem::is_directory(folder, error)) {
    throw UsageError(fmt::format("{}: the output folder is a file", printable(folder.string())));
  }
  if (!takes_files(folder)) {
    throw UsageError(fmt::format("{}: files cannot be written into the output folder: {}",
                                 printable(folder.string()), std::strerror(errno)));
  }
}

void prepare_output_file(const std::filesystem::path& file) {
  std::error_code error;
  const std::string name = printable(file.string());
  const auto status = std::filesystem::status(file, error);
  if (!file.has_filename() ||
      (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))) {
    throw UsageError(fmt::format("{}: expected the name of a file to write", name));
  }
  const std::filesystem::path folder = std::filesystem::absolute(file).parent_path();
  if (!takes_files(folder)) {
    throw UsageError(fmt::format("{}: cannot be written: {}", name, std::strerror(errno)));
  }
}

TemporaryFolder::TemporaryFolder(const std::filesystem::path& parent, std::string_view name) {
  const std::filesystem::path folder = std::filesystem::absolute(parent);
  // A name that fills a directory entry leaves no room for more.
  constexpr std::size_t kLongestName = 200;
  const std::string prefix = fmt::format(".{}.portolan-", name.substr(0, kLongestName));
  remove_abandoned(folder, prefix);
  do {
    std::string path = (folder / prefix).string() + std::string(kSuffix);
    if (::mkdtemp(path.data()) == nullptr) fail(parent, "a temporary folder cannot be created");
    path_ = path;
    // Another process may take it for abandoned before it is locked: then wait until it is gone.
    lock_ = lock(path_, LOCK_EX);
  } while (!std::filesystem::exists(path_));
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace portolan
