// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "core/torch_file.hpp"

namespace portolan {
namespace {

std::string_view storage_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "FloatStorage";
    case DType::bf16:
      return "BFloat16Storage";
    case DType::f16:
      return "HalfStorage";
    case DType::f64:
      return "DoubleStorage";
    case DType::i64:
      return "LongStorage";
    case DType::i32:
      return "IntStorage";
    case DType::u8:
      return "ByteStorage";
  }
  throw UnsupportedError(fmt::format("PyTorch has no storage of {}", name_of(dtype)));
}

/// A pickle of protocol 2, opcode by opcode.
class PickleText {
 public:
  PickleText() { bytes_ = "\x80\x02"; }

  void opcode(char code) { bytes_ += code; }
  void global(std::string_view module, std::string_view name) {
    bytes_ += fmt::format("c{}\n{}\n", module, name);
  }
  void text(std::string_view value) {
    opcode('X');
    little_endian(value.size(), 4);
    bytes_ += value;
  }
  void integer(std::int64_t value) {
    constexpr std::int64_t kFourBytes = std::int64_t{1} << 31;
    if (value < kFourBytes) {
      opcode('J');
      little_endian(static_cast<std::uint64_t>(value), 4);
    } else {
      bytes_ += "\x8a\x08";  // LONG1 of eight bytes
      little_endian(static_cast<std::uint64_t>(value), 8);
    }
  }
  void tuple(const std::vector<std::int64_t>& values) {
    opcode('(');
    for (const std::int64_t value : values) integer(value);
    opcode('t');
  }
  [[nodiscard]] std::span<const std::byte> bytes() const {
    return std::as_bytes(std::span(bytes_));
  }

 private:
  void little_endian(std::uint64_t value, int width) {
    for (int i = 0; i < width; ++i) bytes_ += static_cast<char>((value >> (8 * i)) & 0xFFU);
  }

  std::string bytes_;
};

/// {name: _rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict()), ...}
PickleText describe_tensors(const std::vector<TensorDescription>& tensors) {
  PickleText pickle;
  pickle.opcode('}');
  pickle.opcode('(');
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorDescription& tensor = tensors[i];
    std::vector<std::int64_t> strides(tensor.shape.size());
    std::int64_t elements = 1;
    for (std::size_t d = strides.size(); d-- > 0; elements *= tensor.shape[d]) {
      strides[d] = elements;
    }
    pickle.text(tensor.name);
    pickle.global("torch._utils", "_rebuild_tensor_v2");
    pickle.opcode('(');  // the arguments
    pickle.opcode('(');  // the storage's identifier
    pickle.text("storage");
    pickle.global("torch", storage_type(tensor.dtype));
    pickle.text(std::to_string(i));
    pickle.text("cpu");
    pickle.integer(elements);
    pickle.opcode('t');
    pickle.opcode('Q');
    pickle.integer(0);
    pickle.tuple(tensor.shape);
    pickle.tuple(strides);
    pickle.opcode('\x89');  // False
    pickle.global("collections", "OrderedDict");
    pickle.opcode(')');
    pickle.opcode('R');
    pickle.opcode('t');
    pickle.opcode('R');
  }
  pickle.opcode('u');
  pickle.opcode('.');
  return pickle;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

}  // namespace

TorchFileWriter::TorchFileWriter(const std::filesystem::path& path,
                                 const std::vector<TensorDescription>& tensors)
    : archive_(path), name_(printable_path(path)), folder_(path.stem().string() + "/") {
  for (const TensorDescription& tensor : tensors) sizes_.push_back(tensor.checked_size(name_));
  const PickleText pickle = describe_tensors(tensors);
  archive_.begin(folder_ + "data.pkl");
  archive_.append(pickle.bytes());
  archive_.begin(folder_ + "byteorder");
  archive_.append(bytes_of("little"));
  begin_entries();
}

void TorchFileWriter::begin_entries() {
  while (missing_ == 0 && next_ < sizes_.size()) {
    archive_.begin(fmt::format("{}data/{}", folder_, next_));
    missing_ = sizes_[next_++];
  }
}

void TorchFileWriter::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    require(missing_ > 0, "{}: more data than its {} tensors have", name_, sizes_.size());
    const auto part =
        bytes.first(static_cast<std::size_t>(std::min<std::uint64_t>(missing_, bytes.size())));
    archive_.append(part);
    missing_ -= part.size();
    bytes = bytes.subspan(part.size());
    begin_entries();
  }
}

void TorchFileWriter::finish() {
  require(missing_ == 0 && next_ == sizes_.size(), "{}: data of its tensors is missing", name_);
  archive_.begin(folder_ + "version");
  archive_.append(bytes_of("3\n"));
  archive_.finish();
}

}  // namespace portolan
