// SPDX-License-Identifier: Apache-2.0
#include "apps/output_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <system_error>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what) {
  throw Error(fmt::format("{}: {}: {}", printable(path.string()), what, std::strerror(errno)));
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
  std::string probe = (folder / ".portolan-XXXXXX").string();
  const int descriptor = ::mkstemp(probe.data());
  if (descriptor < 0) {
    throw UsageError(fmt::format("{}: files cannot be written into the output folder: {}",
                                 printable(folder.string()), std::strerror(errno)));
  }
  ::close(descriptor);
  ::unlink(probe.c_str());
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  const std::string temporary = fmt::format("{}.{}.tmp", path.string(), ::getpid());
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                                S_IRUSR | S_IWUSR | S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH);
  if (descriptor < 0) fail(path, "cannot be written");
  bool good = true;
  for (std::size_t done = 0; good && done < text.size();) {
    const auto count = ::write(descriptor, text.data() + done, text.size() - done);
    good = count >= 0 || errno == EINTR;
    if (count > 0) done += static_cast<std::size_t>(count);
  }
  good = good && ::fsync(descriptor) == 0;
  const int reason = errno;
  ::close(descriptor);
  if (good && ::rename(temporary.c_str(), path.c_str()) == 0) return;
  if (!good) errno = reason;
  const int final_reason = errno;
  ::unlink(temporary.c_str());
  errno = final_reason;
  fail(path, "cannot be written");
}

TemporaryFolder::TemporaryFolder(const std::filesystem::path& parent) {
  std::string name = (std::filesystem::absolute(parent) / ".portolan-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) fail(parent, "a temporary folder cannot be created");
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace portolan
