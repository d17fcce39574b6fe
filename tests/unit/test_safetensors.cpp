// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>

#include "core/convert.hpp"
#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

using testing::data_path;
using testing::input_error;
using testing::read_file;
using testing::safetensors_bytes;
using testing::TemporaryFolder;
using testing::write_file;

class MalformedSafetensors : public ::testing::TestWithParam<testing::BadCase> {};

TEST_P(MalformedSafetensors, IsRefusedWithOneLineThatNamesTheFile) {
  const auto path = data_path("bad/" + GetParam().path);
  const std::string message = input_error([&] { SafetensorsFile file(path); });
  EXPECT_TRUE(message.starts_with(path.string() + ": ")) << message;
}

TEST_P(MalformedSafetensors, IsRefusedFromMemoryForTheSameReason) {
  const auto path = data_path("bad/" + GetParam().path);
  const std::string bytes = read_file(path);
  EXPECT_EQ(input_error([&] {
              static_cast<void>(parse_safetensors(std::as_bytes(std::span(bytes)), path.string()));
            }),
            input_error([&] { SafetensorsFile file(path); }));
}

INSTANTIATE_TEST_SUITE_P(, MalformedSafetensors,
                         ::testing::ValuesIn(testing::bad_cases("safetensors")),
                         [](const auto& each) { return testing::identifier(each.param.path); });

std::string refusal(const std::string& header, const std::string& data = "") {
  const std::string bytes = safetensors_bytes(header, data);
  return input_error(
      [&] { static_cast<void>(parse_safetensors(std::as_bytes(std::span(bytes)), "f")); });
}

TEST(Safetensors, MessagesNameTensorAndField) {
  EXPECT_EQ(refusal(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", "1234"),
            "f: tensor 'x': field 'data_offsets': expected 8 bytes for F32 [2], found 4");
  EXPECT_EQ(refusal(R"({"x":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", "12"),
            "f: tensor 'x': field 'shape': [3] elements of F4 end inside a byte");
  EXPECT_EQ(refusal(R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":[]}})", "1"),
            "f: tensor 'x': field 'extra': expected only dtype, shape and data_offsets");
  EXPECT_EQ(refusal(R"({"__metadata__":{"a":"1","a":"2"}})"),
            "f: field '__metadata__.a': appears twice");
  EXPECT_EQ(refusal(R"({"__metadata__":{},"__metadata__":{}})"),
            "f: field '__metadata__': appears twice");
}

TEST(Safetensors, RefusesShapesWhosePartialProductsOverflowEvenIfAnExtentIsZero) {
  EXPECT_NE(
      refusal(R"({"x":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})")
          .find("overflows"),
      std::string::npos);
}

TEST(Safetensors, RefusesAHeaderThatDoesNotStartWithABrace) {
  EXPECT_FALSE(refusal("  {}").empty());
  EXPECT_FALSE(refusal("\xef\xbb\xbf{}").empty());
}

TEST(SafetensorsControls, MinimalFileIsReadWhole) {
  const SafetensorsFile file(data_path("bad/controls/minimal.safetensors"));
  ASSERT_EQ(file.entries().size(), 1u);
  const SafetensorsEntry& x = file.at("x");
  EXPECT_EQ(x.dtype_name, "F32");
  EXPECT_EQ(x.dtype, DType::f32);
  EXPECT_EQ(x.shape, (std::vector<std::int64_t>{2, 2}));
  const auto bytes = file.bytes(x);
  ASSERT_EQ(bytes.size(), 16u);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_EQ(std::to_integer<std::size_t>(bytes[i]), i);
  }
  EXPECT_EQ(file.find("y"), nullptr);
  EXPECT_NE(input_error([&] { static_cast<void>(file.at("y")); }).find("'y'"), std::string::npos);
}

TEST(SafetensorsControls, FilesWithoutTensorsAreSound) {
  EXPECT_TRUE(SafetensorsFile(data_path("bad/controls/no_tensors.safetensors")).entries().empty());
  const SafetensorsFile file(data_path("bad/controls/only_metadata.safetensors"));
  EXPECT_TRUE(file.entries().empty());
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(SafetensorsControls, PaddingEmptyTensorsScalarsAndAnyHeaderOrderAreSound) {
  EXPECT_EQ(SafetensorsFile(data_path("bad/controls/padded_header.safetensors")).entries().size(),
            1u);
  const SafetensorsFile empty(data_path("bad/controls/zero_size.safetensors"));
  EXPECT_EQ(empty.at("e").elements(), 0);
  EXPECT_EQ(empty.at("x").elements(), 4);
  EXPECT_NO_THROW(empty.read(empty.at("e"), nullptr, DType::f32));

  const SafetensorsFile scalar(data_path("bad/controls/scalar.safetensors"));
  EXPECT_TRUE(scalar.at("s").shape.empty());
  double value = 0;
  scalar.read(scalar.at("s"), &value, DType::f64);
  EXPECT_EQ(value, 1.0);

  const SafetensorsFile unsorted(data_path("bad/controls/unsorted_header.safetensors"));
  ASSERT_EQ(unsorted.entries().size(), 2u);
  EXPECT_EQ(unsorted.entries()[0].name, "a");
  EXPECT_EQ(std::to_integer<int>(unsorted.bytes(unsorted.at("b"))[0]), 8);
}

TEST(SafetensorsControls, NamesMayHoldAnything) {
  const SafetensorsFile file(data_path("bad/controls/escaped_name.safetensors"));
  EXPECT_NE(file.find("n\xc3\xa4me\n\"\xf0\x9f\x98\x80"), nullptr);
}

TEST(SafetensorsControls, EveryDtypeOfTheFormatIsListed) {
  const SafetensorsFile file(data_path("bad/controls/all_dtypes.safetensors"));
  ASSERT_EQ(file.entries().size(), 10u);
  for (const SafetensorsEntry& entry : file.entries()) EXPECT_EQ(entry.dtype_name, entry.name);
  EXPECT_EQ(file.at("F64").dtype, DType::f64);
  EXPECT_EQ(file.at("BF16").dtype, DType::bf16);
  EXPECT_EQ(file.at("I64").dtype, DType::i64);
  EXPECT_EQ(file.at("U8").dtype, DType::u8);
  EXPECT_FALSE(file.at("BOOL").dtype.has_value());
  EXPECT_FALSE(file.at("I16").dtype.has_value());
  float unused = 0;
  EXPECT_THROW(file.read_block(file.at("I16"), 0, 1, 0, 1, &unused, DType::f32), UnsupportedError);
  EXPECT_THROW(file.read_block(file.at("I64"), 0, 1, 0, 1, &unused, DType::f32), UnsupportedError);
}

TEST(Safetensors, SubByteDtypesAreMeasuredInBits) {
  const TemporaryFolder folder;
  write_file(folder / "a",
             safetensors_bytes(R"({"a":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]},)"
                               R"("b":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[3,6]}})",
                               "123456"));
  const SafetensorsFile file(folder / "a");
  EXPECT_EQ(file.at("a").byte_size(), 3u);
  EXPECT_EQ(file.at("b").elements(), 4);
}

/// A file with one matrix of 37 rows and 53 columns whose element (r, c) is 100 r + c, as f32.
class SafetensorsBlocks : public ::testing::Test {
 protected:
  static constexpr std::int64_t kRows = 37;
  static constexpr std::int64_t kColumns = 53;

  SafetensorsBlocks() {
    std::string data(kRows * kColumns * sizeof(float), '\0');
    for (std::int64_t i = 0; i < kRows * kColumns; ++i) {
      const auto value = static_cast<float>(100 * (i / kColumns) + i % kColumns);
      std::memcpy(data.data() + i * static_cast<std::int64_t>(sizeof(float)), &value,
                  sizeof(float));
    }
    write_file(folder_ / "m.safetensors",
               safetensors_bytes(R"({"m":{"dtype":"F32","shape":[37,53],"data_offsets":[0,7844]}})",
                                 data));
  }

  TemporaryFolder folder_;
};

TEST_F(SafetensorsBlocks, AnyBlockIsCopiedDenseAndRowMajor) {
  const SafetensorsFile file(folder_ / "m.safetensors");
  for (const auto& [row_begin, row_end, column_begin, column_end] :
       std::vector<std::array<std::int64_t, 4>>{{0, 37, 0, 53},
                                                {0, 1, 0, 1},
                                                {36, 37, 52, 53},
                                                {5, 20, 0, 53},
                                                {0, 37, 10, 11},
                                                {7, 9, 3, 50},
                                                {4, 4, 0, 53},
                                                {0, 37, 8, 8}}) {
    const std::int64_t width = column_end - column_begin;
    const std::int64_t height = row_end - row_begin;
    std::vector<float> found(static_cast<std::size_t>(width * height) + 1, -1.0F);
    file.read_block(file.at("m"), row_begin, row_end, column_begin, column_end, found.data(),
                    DType::f32);
    for (std::int64_t i = 0; i < width * height; ++i) {
      const auto expected =
          static_cast<float>(100 * (row_begin + i / width) + column_begin + i % width);
      ASSERT_EQ(found[static_cast<std::size_t>(i)], expected) << i;
    }
    EXPECT_EQ(found.back(), -1.0F) << "wrote beyond the block";
  }
}

TEST_F(SafetensorsBlocks, BlocksAreConverted) {
  const SafetensorsFile file(folder_ / "m.safetensors");
  std::vector<BFloat16> bf16(6);
  file.read_block(file.at("m"), 2, 4, 50, 53, bf16.data(), DType::bf16);
  EXPECT_EQ(to_float(bf16[0]), 250.0F);
  EXPECT_EQ(to_float(bf16[5]), 352.0F);
  std::vector<double> f64(1);
  file.read_block(file.at("m"), 36, 37, 52, 53, f64.data(), DType::f64);
  EXPECT_EQ(f64[0], 3652.0);
}

TEST_F(SafetensorsBlocks, OnlyTheBlocksBytesAreCountedAsRead) {
  const SafetensorsFile file(folder_ / "m.safetensors");
  EXPECT_EQ(file.bytes_read(), 0);
  std::vector<float> out(kRows * kColumns);
  file.read_block(file.at("m"), 3, 7, 10, 15, out.data(), DType::f32);
  EXPECT_EQ(file.bytes_read(), 4 * 5 * 4);
  file.read_block(file.at("m"), 0, 2, 0, 53, out.data(), DType::bf16);
  EXPECT_EQ(file.bytes_read(), 4 * 5 * 4 + 2 * 53 * 4);
  file.read(file.at("m"), out.data(), DType::f32);
  EXPECT_EQ(file.bytes_read(), 4 * 5 * 4 + 2 * 53 * 4 + kRows * kColumns * 4);
}

TEST_F(SafetensorsBlocks, BlocksOutsideTheTensorAreRefused) {
  const SafetensorsFile file(folder_ / "m.safetensors");
  float out = 0;
  const auto read = [&](std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
    file.read_block(file.at("m"), a, b, c, d, &out, DType::f32);
  };
  EXPECT_THROW(read(0, 38, 0, 1), UsageError);
  EXPECT_THROW(read(-1, 0, 0, 1), UsageError);
  EXPECT_THROW(read(1, 0, 0, 1), UsageError);
  EXPECT_THROW(read(0, 1, 0, 54), UsageError);
  EXPECT_THROW(read(0, 1, 3, 2), UsageError);
  EXPECT_THROW(read(0, 1, INT64_MIN, 2), UsageError);
  EXPECT_THROW(read(INT64_MAX, INT64_MIN, 0, 2), UsageError);
}

TEST_F(SafetensorsBlocks, ThreadsMayReadAtTheSameTime) {
  const SafetensorsFile file(folder_ / "m.safetensors");
  std::vector<std::vector<float>> found(4, std::vector<float>(kRows * kColumns));
  std::vector<std::thread> threads;
  for (auto& each : found) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) file.read(file.at("m"), each.data(), DType::f32);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& each : found) EXPECT_EQ(each, found.front());
  EXPECT_EQ(file.bytes_read(), 4 * 20 * kRows * kColumns * 4);
}

TEST_F(SafetensorsBlocks, AFileThatBecameShorterIsAnErrorAndNoSignal) {
  const auto path = folder_ / "m.safetensors";
  const SafetensorsFile file(path);
  std::filesystem::resize_file(path, 200);
  std::vector<float> out(kRows * kColumns);
  const std::string message = input_error([&] { file.read(file.at("m"), out.data(), DType::f32); });
  EXPECT_TRUE(message.starts_with(path.string() + ": ")) << message;
  EXPECT_NE(message.find("end of the file"), std::string::npos) << message;
}

TEST(SafetensorsTensors, HigherRanksAreMatricesOfTheFirstDimensionByTheOthers) {
  SafetensorsEntry entry;
  entry.shape = {2, 3, 4};
  EXPECT_EQ(entry.rows(), 2);
  EXPECT_EQ(entry.columns(), 12);
  entry.shape = {5};
  EXPECT_EQ(entry.rows(), 5);
  EXPECT_EQ(entry.columns(), 1);
  entry.shape = {};
  EXPECT_EQ(entry.rows(), 1);
  EXPECT_EQ(entry.columns(), 1);
}

/// A file of one matrix of 64 MiB, all zeros, that takes no room on the disk.
class LargeSafetensors : public ::testing::Test {
 protected:
  static constexpr std::int64_t kRows = 2048;
  static constexpr std::int64_t kColumns = 8192;
  static constexpr std::int64_t kBytes = kRows * kColumns * 4;
  static constexpr std::int64_t kSmall = 16 << 20;

  LargeSafetensors() {
    write_file(path_, safetensors_bytes(R"({"m":{"dtype":"F32","shape":[2048,8192],)"
                                        R"("data_offsets":[0,67108864]}})",
                                        ""));
    std::filesystem::resize_file(path_, std::filesystem::file_size(path_) + kBytes);
  }

  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_ / "large.safetensors";
};

TEST_F(LargeSafetensors, ReadingInPartsKeepsResidentMemorySmall) {
  const SafetensorsFile file(path_);
  std::vector<BFloat16> part(64 * kColumns);
  file.read_block(file.at("m"), 0, 64, 0, kColumns, part.data(), DType::bf16);
  const std::int64_t before = testing::resident_bytes();
  for (std::int64_t row = 0; row < kRows; row += 64) {
    file.read_block(file.at("m"), row, row + 64, 0, kColumns, part.data(), DType::bf16);
    ASSERT_LT(testing::resident_bytes() - before, kSmall);
  }
  EXPECT_EQ(file.bytes_read(), kBytes + 64 * kColumns * 4);
}

TEST_F(LargeSafetensors, ReleaseDropsThePagesThatBytesBroughtIn) {
  const SafetensorsFile file(path_);
  const std::int64_t before = testing::resident_bytes();
  const auto bytes = file.bytes(file.at("m"));
  unsigned sum = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 1024) sum += std::to_integer<unsigned>(bytes[i]);
  EXPECT_EQ(sum, 0u);
  EXPECT_GT(testing::resident_bytes() - before, kBytes / 2);
  file.release(file.at("m"));
  EXPECT_LT(testing::resident_bytes() - before, kSmall);
  EXPECT_EQ(std::to_integer<int>(bytes[bytes.size() - 1]), 0) << "stays readable";
}

}  // namespace
}  // namespace portolan
