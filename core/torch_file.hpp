// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/tensor_file.hpp"
#include "core/zip_archive.hpp"

/// Files of torch.save: a zip archive whose data.pkl is a pickled dictionary of tensors, with the
/// bytes of each storage in an entry of its own. Nothing in them is executed: see core/pickle.hpp.
namespace portolan {

/// An open .pth, .pt or .bin file, as torch.save writes them since version 1.6.
class TorchFile final : public TensorFile {
 public:
  /// Reads and checks the archive's list and the pickle; touches no data. Tensors are those of the
  /// outermost dictionary, in its order; its other values are passed over. Throws InputError unless
  /// all is sound: every tensor dense (its rows may lie apart) and within its storage, no two of
  /// one name, no global in the pickle but those that tensors are made of. Files of older versions
  /// are refused.
  explicit TorchFile(const std::filesystem::path& path);
};

/// Writes a dictionary of tensors as torch.save does, piece by piece, so that no more than one
/// piece need be in memory. torch.load reads it, with weights_only and mmap too.
class TorchFileWriter {
 public:
  /// Creates the file and writes the dictionary. Throws UnsupportedError for dtypes that have no
  /// storage in PyTorch, Error when writing fails.
  TorchFileWriter(const std::filesystem::path& path, const std::vector<TensorDescription>& tensors);

  /// Adds bytes to the data of the tensors, which is in the order of `tensors`, without gaps.
  /// Throws UsageError for more bytes than there are in all, Error when writing fails.
  void append(std::span<const std::byte> bytes);
  /// Throws UsageError when data is missing, Error when writing fails.
  void finish();

 private:
  void begin_entries();

  ZipWriter archive_;
  std::string name_;
  std::string folder_;                ///< in the archive, with a slash
  std::vector<std::uint64_t> sizes_;  ///< by tensor
  std::size_t next_ = 0;              ///< the tensor to begin next
  std::uint64_t missing_ = 0;         ///< bytes of the tensor that was begun last
};

}  // namespace portolan
