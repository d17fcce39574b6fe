// SPDX-License-Identifier: Apache-2.0
#include "core/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

std::string system_message(int error) { return std::generic_category().message(error); }

constexpr std::size_t kPathLimit = 4096;

}  // namespace

InputFile::InputFile(const std::filesystem::path& path)
    : name_(printable(path.native(), kPathLimit)) {
  // Without O_NONBLOCK, opening a pipe that nobody writes to would wait forever.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor_ < 0) {
    throw InputError(fmt::format("{}: cannot open: {}", name_, system_message(errno)));
  }
  struct stat status {};
  const int failed = ::fstat(descriptor_, &status) != 0 ? errno : 0;
  if (failed != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    if (failed != 0) {
      throw InputError(fmt::format("{}: cannot read: {}", name_, system_message(failed)));
    }
    throw InputError(fmt::format("{}: expected a regular file, found {}", name_,
                                 S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe"));
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

InputFile::~InputFile() { ::close(descriptor_); }

void InputFile::read(std::uint64_t offset, std::span<std::byte> destination) const {
  while (!destination.empty()) {
    const ssize_t count =
        ::pread(descriptor_, destination.data(), destination.size(), static_cast<off_t>(offset));
    if (count < 0) {
      if (errno == EINTR) continue;
      throw InputError(
          fmt::format("{}: cannot read at byte {}: {}", name_, offset, system_message(errno)));
    }
    if (count == 0) {
      throw InputError(
          fmt::format("{}: expected {} more bytes at byte {}, found the end of the file", name_,
                      destination.size(), offset));
    }
    offset += static_cast<std::uint64_t>(count);
    destination = destination.subspan(static_cast<std::size_t>(count));
  }
}

std::string read_text_file(const std::filesystem::path& path, std::uint64_t maximum_bytes) {
  const InputFile file(path);
  if (file.size() > maximum_bytes) {
    throw InputError(fmt::format("{}: expected at most {} bytes, found {}", file.name(),
                                 maximum_bytes, file.size()));
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

MappedFile::MappedFile(const std::filesystem::path& path) : file_(path) {
  if (file_.size() == 0) return;
  if (file_.size() > std::numeric_limits<std::size_t>::max()) {
    throw InputError(fmt::format("{}: {} bytes exceed the address space", name(), file_.size()));
  }
  void* address = ::mmap(nullptr, static_cast<std::size_t>(file_.size()), PROT_READ, MAP_PRIVATE,
                         file_.descriptor(), 0);
  if (address == MAP_FAILED) {
    throw InputError(fmt::format("{}: cannot map: {}", name(), system_message(errno)));
  }
  address_ = address;
}

MappedFile::~MappedFile() {
  if (address_ != nullptr) ::munmap(address_, static_cast<std::size_t>(file_.size()));
}

std::span<const std::byte> MappedFile::bytes() const noexcept {
  return {static_cast<const std::byte*>(address_), static_cast<std::size_t>(file_.size())};
}

void MappedFile::release(std::uint64_t offset, std::uint64_t length) const {
  if (offset >= size() || length == 0) return;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t begin = offset - offset % page;
  const std::uint64_t end = offset + std::min(length, size() - offset);
  // Advice only: where the kernel refuses it, the pages merely stay resident.
  ::madvise(static_cast<std::byte*>(address_) + begin, static_cast<std::size_t>(end - begin),
            MADV_DONTNEED);
}

}  // namespace portolan
