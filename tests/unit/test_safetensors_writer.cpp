// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <numeric>

#include "core/error.hpp"
#include "core/safetensors.hpp"
#include "core/safetensors_writer.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

using testing::data_path;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;

class ReferenceFiles : public ::testing::TestWithParam<std::string> {};

TEST_P(ReferenceFiles, AreReproducedByteForByte) {
  const auto original = data_path("models/" + GetParam());
  const TemporaryFolder folder;
  const auto copy = folder / "copy.safetensors";
  const SafetensorsFile file(original);
  std::vector<SafetensorsTensor> tensors;
  for (const SafetensorsEntry& entry : file.entries()) {
    ASSERT_TRUE(entry.dtype.has_value());
    tensors.push_back({entry.name, *entry.dtype, entry.shape});
  }
  std::reverse(tensors.begin(), tensors.end());  // the order given must not matter
  SafetensorsWriter writer(copy, tensors, file.metadata());
  for (const SafetensorsTensor& tensor : tensors) {
    writer.append(tensor.name, file.bytes(file.at(tensor.name)));
  }
  writer.finish();
  EXPECT_TRUE(read_file(copy) == read_file(original));
}

INSTANTIATE_TEST_SUITE_P(, ReferenceFiles,
                         ::testing::Values("llama-tiny-gqa/model.safetensors",
                                           "llama-tiny-gqa/expected.safetensors",
                                           "llama-tiny-mha-bf16/model-00002-of-00003.safetensors",
                                           "llama3-tiny-tied/model.safetensors"),
                         [](const auto& each) { return testing::identifier(each.param); });

TEST(SafetensorsWriter, WritesWhatTheReaderReadsForEveryDtypeAndShape) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  const std::vector<SafetensorsTensor> tensors{{"half", DType::f16, {3}},
                                               {"bytes", DType::u8, {5}},
                                               {"wide", DType::f64, {2, 1}},
                                               {"scalar", DType::f32, {}},
                                               {"empty", DType::i64, {4, 0}},
                                               {"brain", DType::bf16, {1, 1, 1}},
                                               {"a \"name\"\n\xc3\xa4", DType::i32, {2}}};
  const auto data_of = [](const SafetensorsTensor& tensor) {
    std::size_t size = size_of(tensor.dtype);
    for (const std::int64_t extent : tensor.shape) size *= static_cast<std::size_t>(extent);
    std::string data(size, '\0');
    std::iota(data.begin(), data.end(), tensor.name.front());
    return data;
  };
  SafetensorsWriter writer(path, tensors, {{"format", "pt"}, {"note", "\"q\""}});
  for (const SafetensorsTensor& tensor : tensors) {
    const std::string data = data_of(tensor);
    // In two pieces, to see that they are joined.
    const auto bytes = std::as_bytes(std::span(data));
    writer.append(tensor.name, bytes.first(bytes.size() / 2));
    writer.append(tensor.name, bytes.subspan(bytes.size() / 2));
  }
  writer.finish();

  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata().at("note"), "\"q\"");
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (const SafetensorsTensor& tensor : tensors) {
    const SafetensorsEntry& entry = file.at(tensor.name);
    EXPECT_EQ(entry.shape, tensor.shape);
    EXPECT_EQ(entry.dtype, tensor.dtype);
    const auto bytes = file.bytes(entry);
    const std::string found(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    EXPECT_EQ(found, data_of(tensor));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes.data()) % size_of(tensor.dtype), 0u)
        << tensor.name << " is not aligned";
  }
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a.safetensors"}));
}

const std::vector<SafetensorsTensor> kOneTensor{{"x", DType::u8, {4}}};
constexpr std::array<std::byte, 8> kBytes{};

TEST(SafetensorsWriter, TheNameAppearsOnlyWhenTheFileIsComplete) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  SafetensorsWriter writer(path, kOneTensor);
  EXPECT_FALSE(std::filesystem::exists(path));
  writer.append("x", std::span(kBytes).first(4));
  EXPECT_FALSE(std::filesystem::exists(path));
  writer.finish();
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a.safetensors"}));
}

TEST(SafetensorsWriter, AnAbandonedFileLeavesNothingAndKeepsWhatWasThere) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  write_file(path, "before");
  {
    SafetensorsWriter writer(path, kOneTensor);
    writer.append("x", std::span(kBytes).first(2));
  }
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a.safetensors"}));
  EXPECT_EQ(read_file(path), "before");
}

TEST(SafetensorsWriter, TwoWritersOfOneNameDoNotMixTheirBytes) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  SafetensorsWriter first(path, kOneTensor);
  SafetensorsWriter second(path, {{"y", DType::u8, {8}}});
  second.append("y", kBytes);
  first.append("x", std::span(kBytes).first(4));
  first.finish();
  second.finish();
  EXPECT_EQ(SafetensorsFile(path).entries().front().name, "y");
  EXPECT_EQ(folder.names().size(), 1u);
}

TEST(SafetensorsWriter, RefusesTooFewTooManyAndUnknownBytes) {
  const TemporaryFolder folder;
  SafetensorsWriter writer(folder / "a.safetensors", kOneTensor);
  EXPECT_THROW(writer.append("y", kBytes), UsageError);
  EXPECT_THROW(writer.append("x", kBytes), UsageError);
  writer.append("x", std::span(kBytes).first(3));
  EXPECT_THROW(writer.finish(), UsageError);
  EXPECT_THROW(writer.append("x", std::span(kBytes).first(2)), UsageError);
  writer.append("x", std::span(kBytes).first(1));
  writer.finish();
  EXPECT_THROW(writer.finish(), UsageError);
}

TEST(SafetensorsWriter, RefusesNamesAndShapesThatTheFormatCannotHold) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  const auto open = [&](std::vector<SafetensorsTensor> tensors) {
    SafetensorsWriter writer(path, std::move(tensors));
  };
  EXPECT_THROW(open({{"x", DType::u8, {1}}, {"x", DType::f32, {1}}}), UsageError);
  EXPECT_THROW(open({{"__metadata__", DType::u8, {1}}}), UsageError);
  EXPECT_THROW(open({{"\xff", DType::u8, {1}}}), UsageError);
  EXPECT_THROW(open({{"x", DType::u8, {-1}}}), UsageError);
  EXPECT_THROW(open({{"x", DType::f32, {INT64_MAX, 2}}}), UsageError);
  EXPECT_TRUE(folder.names().empty());
}

TEST(SafetensorsWriter, RefusesTargetsThatAreNoRegularFile) {
  const TemporaryFolder folder;
  for (const std::filesystem::path& path :
       {folder.path(), folder / "absent" / "a.safetensors", std::filesystem::path("/dev/null")}) {
    try {
      SafetensorsWriter writer(path, kOneTensor);
      ADD_FAILURE() << path << " was accepted";
    } catch (const UsageError& error) {
      EXPECT_EQ(std::string(error.what()).rfind(path.string() + ": ", 0), 0u) << error.what();
    }
  }
}

/// Lets no file of this process grow beyond a size, as a full disk would.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    previous_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &previous_);
    rlimit limit = previous_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &previous_);
    std::signal(SIGXFSZ, previous_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit previous_{};
  void (*previous_handler_)(int) = SIG_DFL;
};

TEST(SafetensorsWriter, AFullDiskIsAnErrorOfOneLineAndLeavesNothing) {
  const TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  const std::vector<std::byte> data(1 << 20);
  {
    const FileSizeLimit limit(300'000);
    SafetensorsWriter writer(path, {{"x", DType::u8, {1 << 20}}});
    try {
      writer.append("x", data);
      ADD_FAILURE() << "wrote beyond the limit";
    } catch (const Error& error) {
      EXPECT_EQ(error.exit_code(), 1);
      EXPECT_EQ(std::string(error.what()).rfind(path.string() + ": cannot write: ", 0), 0u)
          << error.what();
    }
  }
  EXPECT_TRUE(folder.names().empty());
}

}  // namespace
}  // namespace portolan
