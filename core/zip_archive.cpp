// SPDX-License-Identifier: Apache-2.0
#include "core/zip_archive.hpp"

#include <unzip.h>
#include <zip.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.hpp"
#include "core/mapped_file.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

/// Far above what any checkpoint holds.
constexpr std::uint64_t kMaximumEntries = std::uint64_t{1} << 20;
constexpr std::uint16_t kMaximumNameBytes = 4096;

}  // namespace

// --- reading -------------------------------------------------------------------------------------

struct ZipArchive::Handle {
  explicit Handle(unzFile opened) : file(opened) {}
  ~Handle() { unzClose(file); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  unzFile file;
};

ZipArchive::ZipArchive(const std::filesystem::path& path) : name_(printable_path(path)) {
  // Refuses pipes and folders, at which the library would wait or stumble.
  const std::uint64_t file_size = InputFile(path).size();
  const auto fail = [this](const std::string& message) -> void {
    throw InputError(fmt::format("{}: {}", name_, message));
  };
  unzFile file = unzOpen64(path.c_str());
  if (file == nullptr) fail("expected a zip archive, found none, or one that is cut off");
  handle_ = std::make_unique<Handle>(file);
  unz_global_info64 archive{};
  unzGetGlobalInfo64(file, &archive);
  if (archive.number_entry > kMaximumEntries) {
    fail(fmt::format("expected at most {} entries, found {}", kMaximumEntries,
                     archive.number_entry));
  }
  std::string name(kMaximumNameBytes, '\0');
  int result = archive.number_entry == 0 ? UNZ_END_OF_LIST_OF_FILE : unzGoToFirstFile(file);
  for (; result == UNZ_OK; result = unzGoToNextFile(file)) {
    unz_file_info64 entry{};
    if (unzGetCurrentFileInfo64(file, &entry, name.data(), name.size(), nullptr, 0, nullptr, 0) !=
            UNZ_OK ||
        entry.size_filename >= name.size()) {
      fail("the archive's list of entries is damaged");
    }
    const std::string entry_name = name.substr(0, entry.size_filename);
    const std::string shown = printable(entry_name);
    if ((entry.flag & 1U) != 0) fail(fmt::format("entry '{}': it is encrypted", shown));
    if (entry.compression_method != 0) {
      fail(fmt::format("entry '{}': expected it stored as it is, found it compressed (method {})",
                       shown, entry.compression_method));
    }
    if (unzOpenCurrentFile(file) != UNZ_OK) {
      fail(fmt::format("entry '{}': its header is damaged", shown));
    }
    const std::uint64_t offset = unzGetCurrentFileZStreamPos64(file);
    unzCloseCurrentFile(file);
    if (entry.compressed_size != entry.uncompressed_size || offset > file_size ||
        entry.uncompressed_size > file_size - offset) {
      fail(fmt::format("entry '{}': expected {} bytes at byte {}, found a file of {} bytes", shown,
                       entry.uncompressed_size, offset, file_size));
    }
    if (!entries_.try_emplace(entry_name, ZipEntry{offset, entry.uncompressed_size}).second) {
      fail(fmt::format("entry '{}': it appears twice", shown));
    }
  }
  if (result != UNZ_END_OF_LIST_OF_FILE || entries_.size() != archive.number_entry) {
    fail("the archive's list of entries is damaged");
  }
}

ZipArchive::~ZipArchive() = default;

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second;
}

std::vector<std::byte> ZipArchive::read(std::string_view name, std::uint64_t maximum_bytes) const {
  const auto fail = [&](const std::string& message) -> void {
    throw InputError(fmt::format("{}: entry '{}': {}", name_, printable(name), message));
  };
  const ZipEntry* entry = find(name);
  if (entry == nullptr) fail("expected such an entry, found none");
  if (entry->size > maximum_bytes) {
    fail(fmt::format("expected at most {} bytes, found {}", maximum_bytes, entry->size));
  }
  constexpr int kCaseSensitive = 1;
  std::vector<std::byte> content(static_cast<std::size_t>(entry->size));
  bool good = unzLocateFile(handle_->file, std::string(name).c_str(), kCaseSensitive) == UNZ_OK &&
              unzOpenCurrentFile(handle_->file) == UNZ_OK;
  for (std::size_t done = 0; good && done < content.size();) {
    constexpr std::size_t kPart = std::size_t{1} << 20;
    const auto wanted = static_cast<unsigned>(std::min(kPart, content.size() - done));
    const int count = unzReadCurrentFile(handle_->file, content.data() + done, wanted);
    good = count > 0;
    if (good) done += static_cast<std::size_t>(count);
  }
  if (!good) fail("it cannot be read");
  if (unzCloseCurrentFile(handle_->file) != UNZ_OK) fail("its content contradicts its checksum");
  return content;
}

// --- writing -------------------------------------------------------------------------------------

ZipWriter::ZipWriter(const std::filesystem::path& path)
    : name_(printable_path(path)), file_(zipOpen64(path.c_str(), APPEND_STATUS_CREATE)) {
  if (file_ == nullptr) {
    throw Error(
        fmt::format("{}: cannot create: {}", name_, std::generic_category().message(errno)));
  }
}

ZipWriter::~ZipWriter() {
  if (file_ != nullptr) zipClose(file_, nullptr);
}

void ZipWriter::check(int result) const {
  if (result == ZIP_OK) return;
  throw Error(fmt::format("{}: cannot write: {}", name_,
                          errno != 0 ? std::generic_category().message(errno) : "unknown reason"));
}

void ZipWriter::begin(const std::string& name) {
  end_entry();
  // A local header has 30 bytes, the name, the padding's field, and one with sizes of 64 bits.
  constexpr std::uint64_t kHeaderBytes = 30;
  constexpr std::uint64_t kSizesFieldBytes = 20;
  constexpr std::uint64_t kFieldHeaderBytes = 4;
  const std::uint64_t unpadded =
      position_ + kHeaderBytes + name.size() + kFieldHeaderBytes + kSizesFieldBytes;
  const std::uint64_t padding = (kZipAlignment - unpadded % kZipAlignment) % kZipAlignment;
  std::array<char, kFieldHeaderBytes + kZipAlignment> field{};
  field[0] = 'F';  // the identifier that PyTorch pads with
  field[1] = 'B';
  field[2] = static_cast<char>(padding);
  zip_fileinfo information{};
  information.tmz_date = {.tm_sec = 0,
                          .tm_min = 0,
                          .tm_hour = 0,
                          .tm_mday = 1,
                          .tm_mon = 0,
                          .tm_year = 1980};  // the same bytes every time
  constexpr int kStored = 0;
  constexpr int kSizesOf64Bits = 1;
  errno = 0;
  check(zipOpenNewFileInZip4_64(file_, name.c_str(), &information, field.data(),
                                static_cast<unsigned>(kFieldHeaderBytes + padding), nullptr, 0,
                                nullptr, kStored, 0, 0, -MAX_WBITS, DEF_MEM_LEVEL,
                                Z_DEFAULT_STRATEGY, nullptr, 0, 0, 0, kSizesOf64Bits));
  position_ = unpadded + padding;
  in_entry_ = true;
}

void ZipWriter::append(std::span<const std::byte> bytes) {
  require(in_entry_, "{}: no entry was begun", name_);
  constexpr std::size_t kPart = std::size_t{1} << 20;
  errno = 0;
  for (std::size_t done = 0; done < bytes.size(); done += kPart) {
    const auto part = bytes.subspan(done, std::min(kPart, bytes.size() - done));
    check(zipWriteInFileInZip(file_, part.data(), static_cast<unsigned>(part.size())));
  }
  position_ += bytes.size();
}

void ZipWriter::end_entry() {
  if (!in_entry_) return;
  in_entry_ = false;
  errno = 0;
  check(zipCloseFileInZip(file_));
}

void ZipWriter::finish() {
  end_entry();
  errno = 0;
  check(zipClose(std::exchange(file_, nullptr), nullptr));
}

}  // namespace portolan
