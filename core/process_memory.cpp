// SPDX-License-Identifier: Apache-2.0
#include "core/process_memory.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <iterator>
#include <string>

#include "core/error.hpp"

namespace portolan {

namespace {

constexpr const char* kStatusFile = "/proc/self/status";

/// The bytes of a line such as "VmRSS:\t    1780 kB"; the kernel's kB are 1024 bytes.
std::int64_t field(std::string_view text, std::string_view name) {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (!line.starts_with(name) || line.substr(name.size(), 1) != ":") continue;
    line.remove_prefix(std::min(line.find_first_of("0123456789"), line.size()));
    std::int64_t kibibytes = 0;
    const auto [rest, failure] = std::from_chars(line.data(), line.data() + line.size(), kibibytes);
    if (failure == std::errc() && std::string_view(rest, line.data() + line.size()) == " kB") {
      return kibibytes * 1024;
    }
  }
  throw Error(fmt::format("{}: expected a line \"{}: NUMBER kB\", found none", kStatusFile, name));
}

}  // namespace

ProcessMemory parse_process_status(std::string_view text) {
  return {.resident = field(text, "VmRSS"), .resident_peak = field(text, "VmHWM")};
}

ProcessMemory process_memory() {
  std::ifstream file(kStatusFile);
  if (!file) throw Error(fmt::format("{}: cannot be read", kStatusFile));
  const std::string text(std::istreambuf_iterator<char>(file), {});
  return parse_process_status(text);
}

bool reset_resident_peak() noexcept {
  const int descriptor = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool written = write(descriptor, "5", 1) == 1;
  close(descriptor);
  return written;
}

}  // namespace portolan
