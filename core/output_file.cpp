// SPDX-License-Identifier: Apache-2.0
#include "core/output_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

[[noreturn]] void fail(const std::filesystem::path& path) {
  throw Error(
      fmt::format("{}: cannot be written: {}", printable(path.string()), std::strerror(errno)));
}

}  // namespace

void write_file(const std::filesystem::path& path, std::string_view text) {
  const std::string temporary = fmt::format("{}.{}.tmp", path.string(), ::getpid());
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                                S_IRUSR | S_IWUSR | S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH);
  if (descriptor < 0) fail(path);
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
  fail(path);
}

}  // namespace portolan
