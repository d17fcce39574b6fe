// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/shared/shared_segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "core/error.hpp"

namespace portolan {
namespace {

// Linux 5.14 and 6.3; older C libraries do not define them.
constexpr int kPopulateWrite = 23;          // MADV_POPULATE_WRITE
constexpr unsigned kNoExecutable = 0x0008;  // MFD_NOEXEC_SEAL, wanted by hardened systems

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  [[nodiscard]] int get() const noexcept { return value_; }
  int release() noexcept { return std::exchange(value_, -1); }

 private:
  int value_;
};

std::string reason() { return std::generic_category().message(errno); }

int create_anonymous_file() {
  const int descriptor = ::memfd_create("portolan", MFD_CLOEXEC | kNoExecutable);
  if (descriptor >= 0 || errno != EINVAL) return descriptor;
  return ::memfd_create("portolan", MFD_CLOEXEC);
}

/// Reserves the pages now: touching memory that the system cannot give would kill the process
/// later.
void commit(int descriptor, std::byte* data, std::size_t bytes) {
  ::madvise(data, bytes,
            MADV_HUGEPAGE);  // advice; systems may not have huge pages for shared memory
  if (::madvise(data, bytes, kPopulateWrite) == 0) return;
  const bool unknown = errno == EINVAL;
  if (unknown && ::posix_fallocate(descriptor, 0, static_cast<off_t>(bytes)) == 0) return;
  const std::string why = unknown ? "no space" : reason();
  ::munmap(data, bytes);
  throw OutOfMemoryError(
      fmt::format("cannot take {} bytes of memory shared between ranks: {}", bytes, why));
}

std::byte* map(int descriptor, std::size_t bytes, int flags) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | flags, descriptor, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

std::string refusal(const SegmentName& name, const std::string& path, const std::string& why) {
  return fmt::format("cannot map the shared memory of process {} ({}): {}", name.process, path,
                     why);
}

}  // namespace

SharedSegment SharedSegment::create(std::size_t bytes) {
  Descriptor descriptor(create_anonymous_file());
  if (descriptor.get() < 0) {
    throw UnsupportedError(fmt::format("memory cannot be shared between ranks: {}", reason()));
  }
  struct stat status {};
  std::byte* data = nullptr;
  if (::ftruncate(descriptor.get(), static_cast<off_t>(bytes)) == 0 &&
      ::fstat(descriptor.get(), &status) == 0) {
    data = map(descriptor.get(), bytes, 0);
  }
  if (data == nullptr) {
    throw OutOfMemoryError(
        fmt::format("cannot map {} bytes of memory shared between ranks: {}", bytes, reason()));
  }
  commit(descriptor.get(), data, bytes);
  const SegmentName name{.process = ::getpid(),
                         .descriptor = descriptor.get(),
                         .inode = status.st_ino,
                         .bytes = bytes};
  return SharedSegment(data, name, descriptor.release());
}

SharedSegment SharedSegment::open(const SegmentName& name) {
  const std::string path = fmt::format("/proc/{}/fd/{}", name.process, name.descriptor);
  struct stat status {};
  // Looked at before it is opened: opening something else might have effects.
  if (::stat(path.c_str(), &status) != 0) {
    throw CommunicationError(refusal(name, path, reason()));
  }
  if (status.st_ino != name.inode || static_cast<std::uint64_t>(status.st_size) != name.bytes) {
    throw CommunicationError(refusal(name, path, "another file has this name"));
  }
  const Descriptor descriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  std::byte* data = nullptr;
  if (descriptor.get() >= 0) {
    data = map(descriptor.get(), static_cast<std::size_t>(name.bytes), MAP_POPULATE);
  }
  if (data == nullptr) throw CommunicationError(refusal(name, path, reason()));
  return SharedSegment(data, name, -1);
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      name_(other.name_),
      owned_descriptor_(std::exchange(other.owned_descriptor_, -1)) {}

SharedSegment& SharedSegment::operator=(SharedSegment&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(name_, other.name_);
  std::swap(owned_descriptor_, other.owned_descriptor_);
  return *this;
}

SharedSegment::~SharedSegment() {
  if (data_ != nullptr) ::munmap(data_, bytes());
  if (owned_descriptor_ >= 0) ::close(owned_descriptor_);
}

}  // namespace portolan
