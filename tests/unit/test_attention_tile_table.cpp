// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>

#include "attention/tiles.hpp"
#include "tests/unit/file_testing.hpp"

namespace portolan {
namespace {

using testing::input_error;
using testing::TemporaryFolder;

TEST(AttentionTileTable, ReadsWhatItWrote) {
  const TemporaryFolder folder;
  const AttentionTiles tiles{.block_kib = 384, .forward_chunk = 7, .backward_chunk = 3};
  const AttentionTileTable table("Some CPU",
                                 {{.dtype = DType::bf16, .head_dim = 128, .tiles = tiles}});
  testing::write_file(folder / "tiles.json", table.to_json().dump());
  const AttentionTileTable read = AttentionTileTable::read(folder / "tiles.json", "Some CPU");
  EXPECT_EQ(read.find(DType::bf16, 128), tiles);
  EXPECT_EQ(read.find(DType::bf16, 64), AttentionTiles{});
  EXPECT_EQ(read.find(DType::f32, 128), AttentionTiles{});
  EXPECT_EQ(read.to_json(), table.to_json());
}

TEST(AttentionTileTable, RefusesOtherProcessorsAndValuesOutOfRange) {
  const TemporaryFolder folder;
  const auto expect_refusal = [&folder](const std::string& cpu, const std::string& entry,
                                        const std::string& words) {
    testing::write_file(folder / "tiles.json",
                        R"({"cpu": ")" + cpu + R"(", "attention_tiles": [)" + entry + "]}");
    const std::string error = input_error(
        [&] { static_cast<void>(AttentionTileTable::read(folder / "tiles.json", "This CPU")); });
    EXPECT_NE(error.find(words), std::string::npos) << error;
  };
  expect_refusal("That CPU", "", "'cpu': expected this machine's processor");
  const std::string rest = R"(, "block_kib": 1, "forward_chunk": 1, "backward_chunk": 1})";
  expect_refusal("This CPU", R"({"dtype": "u8", "head_dim": 64)" + rest,
                 "dtype': expected f32, bf16 or f16");
  expect_refusal("This CPU", R"({"dtype": "f32", "head_dim": 257)" + rest, "head_dim");
  expect_refusal("This CPU", R"({"dtype": "f32", "head_dim": 64, "block_kib": 0,
                                       "forward_chunk": 1, "backward_chunk": 1})",
                 "block_kib");
  expect_refusal("This CPU", R"({"dtype": "f32", "head_dim": 64, "block_kib": 1,
                                       "forward_chunk": 1000000, "backward_chunk": 1})",
                 "forward_chunk");
  expect_refusal("This CPU", R"({"dtype": "f32", "head_dim": 64, "block_kib": 1,
                                       "forward_chunk": 1})",
                 "backward_chunk");
}

}  // namespace
}  // namespace portolan
