// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/shared/shared_segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "core/error.hpp"
#include "core/file_descriptor.hpp"

namespace portolan {
namespace {

// Linux 5.14 and 6.3; older C libraries do not define them.
constexpr int kPopulateWrite = 23;          // MADV_POPULATE_WRITE
constexpr unsigned kNoExecutable = 0x0008;  // MFD_NOEXEC_SEAL, wanted by hardened systems

std::string reason() { return std::generic_category().message(errno); }

int create_anonymous_file() {
  const int descriptor = ::memfd_create("portolan", MFD_CLOEXEC | kNoExecutable);
  if (descriptor >= 0 || errno != EINVAL) return descriptor;
  return ::memfd_create("portolan", MFD_CLOEXEC);
}

/// Makes the file `end` bytes long and takes the pages from `begin` on now: touching memory that
/// the system cannot give would kill the process later. Empty, or why it failed.
std::string commit(int descriptor, std::byte* data, std::size_t begin, std::size_t end) {
  if (::ftruncate(descriptor, static_cast<off_t>(end)) != 0) return reason();
  // Advice; systems may not have huge pages for shared memory.
  ::madvise(data + begin, end - begin, MADV_HUGEPAGE);
  if (::madvise(data + begin, end - begin, kPopulateWrite) == 0) return {};
  if (errno != EINVAL) return reason();
  const int failure =
      ::posix_fallocate(descriptor, static_cast<off_t>(begin), static_cast<off_t>(end - begin));
  return failure == 0 ? std::string() : std::generic_category().message(failure);
}

std::byte* map(int descriptor, std::size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

std::string refusal(const SegmentName& name, const std::string& path, const std::string& why) {
  return fmt::format("cannot map the shared memory of process {} ({}): {}", name.process, path,
                     why);
}

}  // namespace

SharedSegment SharedSegment::create(std::size_t bytes, std::size_t reserve) {
  FileDescriptor descriptor(create_anonymous_file());
  if (descriptor.get() < 0) {
    throw UnsupportedError(fmt::format("memory cannot be shared between ranks: {}", reason()));
  }
  struct stat status {};
  std::byte* data = nullptr;
  // Mapping more than there is takes addresses only. Where those are limited, what is needed now
  // has to do.
  std::size_t reserved = std::max(bytes, reserve);
  if (::fstat(descriptor.get(), &status) == 0) {
    data = map(descriptor.get(), reserved);
    if (data == nullptr) data = map(descriptor.get(), reserved = bytes);
  }
  std::string failure = data == nullptr ? reason() : commit(descriptor.get(), data, 0, bytes);
  if (!failure.empty()) {
    if (data != nullptr) ::munmap(data, reserved);
    throw OutOfMemoryError(
        fmt::format("cannot take {} bytes of memory shared between ranks: {}", bytes, failure));
  }
  const SegmentName name{.process = ::getpid(),
                         .descriptor = descriptor.get(),
                         .inode = status.st_ino,
                         .reserved = reserved};
  return SharedSegment(data, bytes, name, descriptor.release());
}

bool SharedSegment::extend(std::size_t bytes) {
  if (bytes > name_.reserved) return false;
  if (!commit(owned_descriptor_, data_, bytes_, bytes).empty()) {
    // The file is as long as before, or longer without anyone knowing: no matter.
    static_cast<void>(::ftruncate(owned_descriptor_, static_cast<off_t>(bytes_)));
    return false;
  }
  bytes_ = bytes;
  return true;
}

SharedSegment SharedSegment::open(const SegmentName& name) {
  const std::string path = fmt::format("/proc/{}/fd/{}", name.process, name.descriptor);
  struct stat status {};
  // Looked at before it is opened: opening something else might have effects.
  if (::stat(path.c_str(), &status) != 0) {
    throw CommunicationError(refusal(name, path, reason()));
  }
  if (status.st_ino != name.inode) {
    throw CommunicationError(refusal(name, path, "another file has this name"));
  }
  const FileDescriptor descriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  std::byte* data = nullptr;
  if (descriptor.get() >= 0) {
    data = map(descriptor.get(), static_cast<std::size_t>(name.reserved));
  }
  if (data == nullptr) throw CommunicationError(refusal(name, path, reason()));
  return SharedSegment(data, 0, name, -1);
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(other.bytes_),
      name_(other.name_),
      owned_descriptor_(std::exchange(other.owned_descriptor_, -1)) {}

SharedSegment& SharedSegment::operator=(SharedSegment&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(name_, other.name_);
  std::swap(owned_descriptor_, other.owned_descriptor_);
  return *this;
}

SharedSegment::~SharedSegment() {
  if (data_ != nullptr) ::munmap(data_, name_.reserved);
  if (owned_descriptor_ >= 0) ::close(owned_descriptor_);
}

}  // namespace portolan
