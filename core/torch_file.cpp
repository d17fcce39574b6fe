// SPDX-License-Identifier: Apache-2.0
#include "core/torch_file.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "core/error.hpp"
#include "core/pickle.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::size_t kMaximumRank = 8;

struct StorageType {
  std::string_view global;
  std::string_view dtype_name;
  std::int64_t element_bytes;
  std::optional<DType> dtype;
};

constexpr std::array<StorageType, 10> kStorageTypes{
    {{"torch.FloatStorage", "F32", 4, DType::f32},
     {"torch.BFloat16Storage", "BF16", 2, DType::bf16},
     {"torch.HalfStorage", "F16", 2, DType::f16},
     {"torch.DoubleStorage", "F64", 8, DType::f64},
     {"torch.LongStorage", "I64", 8, DType::i64},
     {"torch.IntStorage", "I32", 4, DType::i32},
     {"torch.ShortStorage", "I16", 2, {}},
     {"torch.CharStorage", "I8", 1, {}},
     {"torch.ByteStorage", "U8", 1, DType::u8},
     {"torch.BoolStorage", "BOOL", 1, {}}}};

constexpr std::array<std::string_view, 23> kAllowedGlobals{"collections.OrderedDict",
                                                           kRebuildTensor,
                                                           kRebuildParameter,
                                                           kStorageTypes[0].global,
                                                           kStorageTypes[1].global,
                                                           kStorageTypes[2].global,
                                                           kStorageTypes[3].global,
                                                           kStorageTypes[4].global,
                                                           kStorageTypes[5].global,
                                                           kStorageTypes[6].global,
                                                           kStorageTypes[7].global,
                                                           kStorageTypes[8].global,
                                                           kStorageTypes[9].global,
                                                           "torch.float32",
                                                           "torch.bfloat16",
                                                           "torch.float16",
                                                           "torch.float64",
                                                           "torch.int64",
                                                           "torch.int32",
                                                           "torch.int16",
                                                           "torch.int8",
                                                           "torch.uint8",
                                                           "torch.bool"};

/// Turns the values of data.pkl into entries of the file.
class StateDictionaryReader {
 public:
  StateDictionaryReader(const PickleDocument& document, const ZipArchive& archive,
                        std::string folder, std::string source)
      : document_(document),
        archive_(archive),
        folder_(std::move(folder)),
        source_(std::move(source)) {}

  std::vector<TensorEntry> read() {
    const auto* root = document_.get<PickleDictionary>(document_.root);
    if (root == nullptr) {
      throw InputError(fmt::format("{}: expected a dictionary of tensors, found {}", source_,
                                   describe(document_.at(document_.root))));
    }
    std::vector<TensorEntry> entries;
    std::set<std::string_view> names;
    for (const auto& [key, value] : root->items) {
      const auto* call = document_.get<PickleCall>(value);
      if (call == nullptr) continue;
      const auto* name = document_.get<std::string>(key);
      if (name == nullptr) {
        throw InputError(fmt::format("{}: expected strings as names of tensors, found {}", source_,
                                     describe(document_.at(key))));
      }
      tensor_ = *name;
      if (!names.insert(*name).second) fail("it appears twice");
      entries.push_back(read_tensor(*call));
    }
    return entries;
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw InputError(fmt::format("{}: tensor '{}': {}", source_, printable(tensor_), message));
  }

  [[nodiscard]] std::string_view name_of_global(PickleReference reference) const {
    const auto* global = document_.get<PickleGlobal>(reference);
    return global == nullptr ? std::string_view() : std::string_view(global->name);
  }

  /// Items of a tuple with at least so many.
  const std::vector<PickleReference>& tuple(PickleReference reference, std::size_t minimum,
                                            std::string_view what) const {
    const auto* found = document_.get<PickleTuple>(reference);
    if (found == nullptr || found->items.size() < minimum) {
      fail(fmt::format("{}: expected a tuple of at least {}, found {}", what, minimum,
                       found == nullptr ? describe(document_.at(reference))
                                        : fmt::format("one of {}", found->items.size())));
    }
    return found->items;
  }

  std::int64_t count(PickleReference reference, std::string_view what) const {
    const auto* value = document_.get<std::int64_t>(reference);
    if (value == nullptr || *value < 0) {
      fail(fmt::format("{}: expected a whole number from 0 on, found {}", what,
                       describe(document_.at(reference))));
    }
    return *value;
  }

  std::vector<std::int64_t> counts(PickleReference reference, std::string_view what) const {
    const auto& items = tuple(reference, 0, what);
    if (items.size() > kMaximumRank) {
      fail(fmt::format("{}: expected at most {} dimensions, found {}", what, kMaximumRank,
                       items.size()));
    }
    std::vector<std::int64_t> values;
    for (const PickleReference item : items) values.push_back(count(item, what));
    return values;
  }

  TensorEntry read_tensor(const PickleCall& call) const {
    const std::string_view function = name_of_global(call.function);
    if (function == kRebuildParameter) {
      const auto& arguments = tuple(call.arguments, 1, "parameter");
      const auto* inner = document_.get<PickleCall>(arguments.front());
      if (inner == nullptr || name_of_global(inner->function) != kRebuildTensor) {
        fail(fmt::format("expected a parameter made of a tensor, found one of {}",
                         describe(document_.at(arguments.front()))));
      }
      return read_tensor(*inner);
    }
    if (function != kRebuildTensor) {
      fail(fmt::format("expected a call of {}, found one of {}", kRebuildTensor,
                       printable(function)));
    }
    // (storage, offset, size, stride, requires_grad, backward_hooks[, metadata])
    const auto& arguments = tuple(call.arguments, 6, "arguments");
    return place(read_storage(arguments[0]), count(arguments[1], "offset"),
                 counts(arguments[2], "size"), counts(arguments[3], "stride"));
  }

  struct Storage {
    const StorageType* type = nullptr;
    std::uint64_t offset = 0;  ///< in the file
    std::int64_t elements = 0;
  };

  Storage read_storage(PickleReference reference) const {
    const auto* persistent = document_.get<PicklePersistent>(reference);
    if (persistent == nullptr) {
      fail(fmt::format("expected a storage, found {}", describe(document_.at(reference))));
    }
    // ("storage", type, key, location, elements)
    const auto& identifier = tuple(persistent->identifier, 5, "storage");
    const auto* kind = document_.get<std::string>(identifier[0]);
    const auto* key = document_.get<std::string>(identifier[2]);
    if (kind == nullptr || *kind != "storage" || key == nullptr) {
      fail("expected the identifier of a storage, found another");
    }
    Storage storage;
    const std::string_view type = name_of_global(identifier[1]);
    for (const StorageType& each : kStorageTypes) {
      if (each.global == type) storage.type = &each;
    }
    if (storage.type == nullptr) {
      fail(fmt::format("expected a type of storage such as torch.FloatStorage, found {}",
                       describe(document_.at(identifier[1]))));
    }
    const ZipEntry* entry = archive_.find(folder_ + "data/" + *key);
    if (entry == nullptr) {
      fail(fmt::format("expected its data in entry '{}data/{}', found no such entry",
                       printable(folder_), printable(*key)));
    }
    storage.offset = entry->offset;
    storage.elements = count(identifier[4], "storage");
    const auto stored = static_cast<std::int64_t>(entry->size) / storage.type->element_bytes;
    if (storage.elements > stored) {
      fail(fmt::format("expected a storage of {} elements of {}, found {} bytes", storage.elements,
                       storage.type->dtype_name, entry->size));
    }
    return storage;
  }

  TensorEntry place(const Storage& storage, std::int64_t offset, std::vector<std::int64_t> shape,
                    const std::vector<std::int64_t>& strides) const {
    const auto refuse_strides = [&] {
      fail(
          fmt::format("expected strides of a dense tensor or of rows of a wider one, found {} for "
                      "shape {}",
                      shape_text(strides), shape_text(shape)));
    };
    if (shape.size() != strides.size()) refuse_strides();
    const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
    // What a dense tensor of that shape would have, checked from the last dimension to the first.
    std::int64_t elements = 1;
    std::int64_t row_stride = 0;
    for (std::size_t i = shape.size(); i-- > 0;) {
      const bool steps_matter = shape[i] > 1 && !empty;
      if (steps_matter && strides[i] != elements) {
        if (i != 0 || strides[i] < elements) refuse_strides();
        row_stride = strides[i];
      }
      if (__builtin_mul_overflow(elements, shape[i], &elements)) {
        fail(fmt::format("the size of {} overflows", shape_text(shape)));
      }
    }
    TensorEntry entry{tensor_,
                      std::string(storage.type->dtype_name),
                      storage.type->dtype,
                      std::move(shape),
                      0,
                      0,
                      row_stride};
    std::int64_t span = elements;
    if (row_stride != 0 && (__builtin_mul_overflow(entry.rows() - 1, row_stride, &span) ||
                            __builtin_add_overflow(span, entry.columns(), &span))) {
      fail(fmt::format("the size of {} overflows", shape_text(entry.shape)));
    }
    if (offset > storage.elements || span > storage.elements - offset) {
      fail(fmt::format("expected elements {} to {} of its storage, found a storage of {}", offset,
                       static_cast<std::uint64_t>(offset) + static_cast<std::uint64_t>(span),
                       storage.elements));
    }
    entry.begin = storage.offset + static_cast<std::uint64_t>(offset * storage.type->element_bytes);
    entry.end = entry.begin + static_cast<std::uint64_t>(elements * storage.type->element_bytes);
    return entry;
  }

  const PickleDocument& document_;
  const ZipArchive& archive_;
  std::string folder_;
  std::string source_;
  std::string tensor_;  ///< the one being read
};

/// The folder of the archive that everything lies in, with a slash.
std::string folder_of(const ZipArchive& archive, const std::string& source) {
  constexpr std::string_view kPickle = "/data.pkl";
  for (const auto& [name, entry] : archive.entries()) {
    if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size()) {
      return name.substr(0, name.size() - kPickle.size() + 1);
    }
  }
  throw InputError(
      fmt::format("{}: expected an entry data.pkl in a folder, as torch.save writes it, found {} "
                  "entries without it",
                  source, archive.entries().size()));
}

void require_archive(const MappedFile& file) {
  std::array<std::byte, 2> start{};
  const auto length = std::min<std::uint64_t>(start.size(), file.size());
  file.read(0, std::span(start).first(static_cast<std::size_t>(length)));
  if (start[0] == std::byte{'P'} && start[1] == std::byte{'K'}) return;
  const bool pickle = start[0] == std::byte{0x80};
  throw InputError(fmt::format(
      "{}: expected a zip archive, as torch.save writes since PyTorch 1.6, found {}", file.name(),
      pickle ? "the older form, a bare pickle: save it again with a newer PyTorch"
             : "something else"));
}

}  // namespace

TorchFile::TorchFile(const std::filesystem::path& path) : TensorFile(path) {
  require_archive(file());
  const ZipArchive archive(path);
  const std::string folder = folder_of(archive, name());
  if (archive.find(folder + "byteorder") != nullptr) {
    constexpr std::string_view kLittle = "little";
    const auto order = archive.read(folder + "byteorder", kLittle.size());
    if (!std::ranges::equal(order, std::as_bytes(std::span(kLittle)))) {
      throw InputError(
          fmt::format("{}: expected little-endian data, found another byte order", name()));
    }
  }
  const std::string source = name() + ": data.pkl";
  const PickleDocument document = parse_pickle(
      archive.read(folder + "data.pkl", PickleLimits{}.bytes), source, kAllowedGlobals);
  set_entries(StateDictionaryReader(document, archive, folder, source).read(), 0);
}

}  // namespace portolan
