// SPDX-License-Identifier: Apache-2.0
#include "apps/output_file.hpp"

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
