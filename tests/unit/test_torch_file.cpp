// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/error.hpp"
#include "core/torch_file.hpp"
#include "tests/unit/file_testing.hpp"
#include "tests/unit/pickle_testing.hpp"

namespace portolan {
namespace {

using testing::data_path;
using testing::input_error;
using testing::PickledTensor;
using testing::TemporaryFolder;
using testing::torch_bytes;
using testing::zip_bytes;
namespace pickle = testing::pickle;

/// f32 values 0, 1, 2, ...
std::string storage_bytes(std::size_t elements) {
  std::vector<float> values(elements);
  std::iota(values.begin(), values.end(), 0.0F);
  std::string bytes(elements * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::string pickle_of(const PickledTensor& tensor) {
  return pickle::document(testing::pickled_dictionary({{"x", tensor.bytes()}}));
}

class TorchFiles : public ::testing::Test {
 protected:
  [[nodiscard]] std::filesystem::path write(const std::string& bytes) const {
    testing::write_file(folder_ / "model.pth", bytes);
    return folder_ / "model.pth";
  }
  [[nodiscard]] std::filesystem::path write(const PickledTensor& tensor,
                                            std::size_t elements = 6) const {
    return write(torch_bytes(pickle_of(tensor), storage_bytes(elements)));
  }
  [[nodiscard]] std::string refusal(const std::filesystem::path& path) const {
    const std::string message = input_error([&] { TorchFile file(path); });
    EXPECT_TRUE(message.starts_with(path.string())) << message;
    return message;
  }
  void expect_refused(const PickledTensor& tensor, std::string_view word) const {
    const std::string message = refusal(write(tensor));
    EXPECT_NE(message.find(word), std::string::npos) << message;
    EXPECT_NE(message.find("tensor 'x'"), std::string::npos) << message;
  }

  TemporaryFolder folder_;
};

TEST_F(TorchFiles, ATensorIsReadWhereItLies) {
  const TorchFile file(write(PickledTensor{}));
  const TensorEntry& entry = file.at("x");
  EXPECT_EQ(entry.dtype_name, "F32");
  EXPECT_EQ(entry.shape, (std::vector<std::int64_t>{2, 3}));
  std::array<float, 4> block{};
  file.read_block(entry, 0, 2, 1, 3, block.data(), DType::f32);
  EXPECT_EQ(block, (std::array<float, 4>{1, 2, 4, 5}));
  EXPECT_EQ(file.bytes_read(), 16) << "only the block's bytes";
}

TEST_F(TorchFiles, RowsMayLieApartAsColumnsOfAWiderTensorDo) {
  // x[:, 1:3] of a [3, 4] tensor.
  const PickledTensor view{.storage_elements = 12, .offset = 1, .shape = {3, 2}, .strides = {4, 1}};
  const TorchFile file(write(view, 12));
  std::array<float, 6> all{};
  file.read(file.at("x"), all.data(), DType::f32);
  EXPECT_EQ(all, (std::array<float, 6>{1, 2, 5, 6, 9, 10}));
  std::array<float, 2> column{};
  file.read_block(file.at("x"), 1, 3, 1, 2, column.data(), DType::f32);
  EXPECT_EQ(column, (std::array<float, 2>{6, 10}));
  EXPECT_EQ(file.bytes_read(), 32);
}

TEST_F(TorchFiles, ParametersAndValuesThatAreNoTensorsAreUnderstood) {
  const std::string parameter =
      pickle::global("torch._utils", "_rebuild_parameter") +
      pickle::tuple(
          {PickledTensor{}.bytes(), "\x88", pickle::global("collections", "OrderedDict") + ")R"}) +
      "R";
  const TorchFile file(write(torch_bytes(
      pickle::document(testing::pickled_dictionary({{"epoch", "K\x07"}, {"x", parameter}})),
      storage_bytes(6))));
  EXPECT_EQ(file.entries().size(), 1u);
  EXPECT_NE(file.find("x"), nullptr);
}

TEST_F(TorchFiles, FilesOfPyTorchAreRead) {
  // Written by torch.save: see tests/data/meta.
  const TorchFile file(data_path("meta/hidden2/consolidated.00.pth"));
  EXPECT_EQ(file.entries().size(), 22u);
  EXPECT_EQ(file.at("rope.freqs").dtype_name, "F32");
  EXPECT_EQ(file.at("tok_embeddings.weight").shape, (std::vector<std::int64_t>{816, 32}));
}

TEST_F(TorchFiles, StridesOfNoDenseTensorAreRefused) {
  expect_refused({.strides = {1, 2}}, "strides");
  expect_refused({.strides = {3, 2}}, "strides");
  expect_refused({.strides = {3}}, "strides");
  expect_refused({.strides = {0, 1}}, "strides");
  expect_refused({.strides = {2, 1}}, "strides");  // rows that overlap
  expect_refused({.shape = {2, 3}, .strides = {3, -1}}, "stride");
  expect_refused({.shape = {1000000, 6}, .strides = {0, 1}}, "strides");
}

TEST_F(TorchFiles, TensorsOutsideTheirStorageAreRefused) {
  constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t kHalf = std::int64_t{1} << 32;
  expect_refused({.offset = 1}, "elements 1 to 7");
  expect_refused({.offset = kLargest}, "storage");
  expect_refused({.offset = -1}, "offset");
  expect_refused({.shape = {3, 3}}, "storage of 6");
  expect_refused({.storage_elements = 7}, "24 bytes");
  expect_refused({.storage_elements = kLargest}, "24 bytes");
  expect_refused({.storage_elements = -1}, "storage");
  expect_refused({.shape = {kHalf, kHalf}, .strides = {kHalf, 1}}, "overflows");
  expect_refused({.shape = {2, 3}, .strides = {kLargest, 1}}, "overflows");
  expect_refused({.shape = {-2, -3}}, "size");
  expect_refused({.shape = {1, 1, 1, 1, 1, 1, 1, 2, 3}, .strides = {6, 6, 6, 6, 6, 6, 6, 3, 1}},
                 "8 dimensions");
}

TEST_F(TorchFiles, StoragesHaveToBeThereAndOfAKnownType) {
  expect_refused({.key = "1"}, "data/1");
  expect_refused({.key = "../0"}, "data/../0");
  const std::string message = refusal(write(PickledTensor{.storage_type = "QInt8Storage"}));
  EXPECT_NE(message.find("torch.QInt8Storage"), std::string::npos) << message;
}

TEST_F(TorchFiles, PicklesOfOtherThingsAreRefused) {
  const auto refusal_of = [this](const std::string& value) {
    return refusal(write(torch_bytes(pickle::document(value), storage_bytes(6))));
  };
  EXPECT_NE(refusal_of("N").find("dictionary of tensors, found None"), std::string::npos);
  EXPECT_NE(refusal_of(PickledTensor{}.bytes()).find("dictionary of tensors"), std::string::npos);
  EXPECT_NE(refusal_of(std::string("}(K\x01") + PickledTensor{}.bytes() + "u").find("found 1"),
            std::string::npos);
  EXPECT_NE(refusal_of(testing::pickled_dictionary(
                           {{"x", PickledTensor{}.bytes()}, {"x", PickledTensor{}.bytes()}}))
                .find("twice"),
            std::string::npos);
  EXPECT_NE(refusal_of(testing::pickled_dictionary(
                           {{"x", pickle::global("os", "system") + pickle::tuple({}) + "R"}}))
                .find("os.system"),
            std::string::npos);
  // Calls of allowed globals with arguments that make no sense.
  const std::string rebuild = pickle::global("torch._utils", "_rebuild_tensor_v2");
  for (const std::string& arguments :
       {pickle::tuple({}), pickle::tuple({"N", "N", "N", "N", "N", "N"}),
        pickle::tuple({pickle::tuple({}) + "Q", "N", "N", "N", "N", "N"})}) {
    EXPECT_FALSE(
        refusal_of(testing::pickled_dictionary({{"x", rebuild + arguments + "R"}})).empty());
  }
  EXPECT_FALSE(refusal_of(testing::pickled_dictionary(
                              {{"x", pickle::global("torch", "FloatStorage") + ")R"}}))
                   .empty());
}

TEST_F(TorchFiles, ArchivesHaveToBeSound) {
  const std::string good = torch_bytes(pickle_of({}), storage_bytes(6));
  EXPECT_NO_THROW(TorchFile file(write(good)));
  for (std::size_t length = 0; length < good.size(); length += 7) {
    EXPECT_FALSE(refusal(write(good.substr(0, length))).empty()) << length;
  }
  const auto refusal_of = [this](const std::vector<testing::StoredZipEntry>& entries) {
    return refusal(write(zip_bytes(entries)));
  };
  EXPECT_FALSE(refusal_of({}).empty());
  EXPECT_NE(refusal_of({{"data.pkl", "x"}}).find("data.pkl"), std::string::npos);
  EXPECT_NE(refusal_of({{"a/data.pkl", pickle_of({}), 8}}).find("compressed (method 8)"),
            std::string::npos);
  EXPECT_NE(refusal_of({{"a/data.pkl", "x"}, {"a/data.pkl", "x"}}).find("twice"),
            std::string::npos);
  EXPECT_NE(refusal_of({{"a/data.pkl", pickle_of({})}, {"a/byteorder", "big"}}).find("endian"),
            std::string::npos);
}

TEST_F(TorchFiles, DamagedPicklesAreFoundByTheirChecksum) {
  std::string bytes = torch_bytes(pickle_of({}), storage_bytes(6));
  const std::size_t name = bytes.find("storage");
  bytes[name] = 'S';
  EXPECT_NE(refusal(write(bytes)).find("checksum"), std::string::npos);
}

TEST_F(TorchFiles, TheOlderFormAndOtherFilesAreRefusedClearly) {
  EXPECT_NE(refusal(write("\x80\x02\x8a\x0al\xfc\x9c")).find("PyTorch 1.6"), std::string::npos);
  EXPECT_NE(refusal(write("hello")).find("something else"), std::string::npos);
  EXPECT_NE(refusal(write("")).find("zip archive"), std::string::npos);
}

TEST_F(TorchFiles, WrittenFilesAreReadBackAlignedAndTheSameEachTime) {
  const std::vector<TensorDescription> tensors{
      {"a", DType::f32, {2, 3}}, {"none", DType::bf16, {0, 4}}, {"b", DType::i64, {}}};
  const std::int64_t scalar = -5;
  const auto write_it = [&](const std::filesystem::path& path) {
    TorchFileWriter writer(path, tensors);
    const std::string data = storage_bytes(6);
    const auto bytes = std::as_bytes(std::span(data));
    writer.append(bytes.first(5));
    writer.append(bytes.subspan(5));
    writer.append(std::as_bytes(std::span(&scalar, 1)));
    writer.finish();
  };
  write_it(folder_ / "x.pth");
  const TorchFile file(folder_ / "x.pth");
  ASSERT_EQ(file.entries().size(), 3u);
  EXPECT_EQ(file.entries()[0].name, "a");
  EXPECT_EQ(file.at("a").begin % kZipAlignment, 0u);
  EXPECT_EQ(file.at("b").begin % kZipAlignment, 0u);
  EXPECT_EQ(file.at("none").shape, (std::vector<std::int64_t>{0, 4}));
  std::array<float, 6> a{};
  file.read(file.at("a"), a.data(), DType::f32);
  EXPECT_EQ(a, (std::array<float, 6>{0, 1, 2, 3, 4, 5}));
  std::int64_t b = 0;
  file.read(file.at("b"), &b, DType::i64);
  EXPECT_EQ(b, scalar);

  const std::string first = testing::read_file(folder_ / "x.pth");
  write_it(folder_ / "x.pth");
  EXPECT_EQ(testing::read_file(folder_ / "x.pth"), first);
}

TEST_F(TorchFiles, AWriterCountsItsBytes) {
  TorchFileWriter writer(folder_ / "x.pth", {{"a", DType::u8, {3}}});
  const std::array<std::byte, 4> bytes{};
  EXPECT_THROW(writer.finish(), UsageError);
  EXPECT_THROW(writer.append(bytes), UsageError);
  EXPECT_THROW(TorchFileWriter(folder_ / "absent" / "x.pth", {}), Error);
}

}  // namespace
}  // namespace portolan
