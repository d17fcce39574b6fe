// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/tensor.hpp"

namespace portolan {
namespace {

constexpr Device kDevice{DeviceKind::serial, 0};
constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

Tensor empty(const Shape& shape, DType dtype = DType::f32) {
  return Tensor::empty(shape, dtype, kDevice);
}

TEST(Tensor, RefusesExtentsThatNoMemoryHas) {
  float memory[4] = {};
  // Products that wrap to something small, and bytes that wrap where elements do not.
  for (const Shape& shape :
       {Shape{kLargest, 4}, Shape{std::int64_t{1} << 32, std::int64_t{1} << 32},
        Shape{(std::int64_t{1} << 62) + 1}, Shape{-1}, Shape{-2, -2}, Shape{0, -1},
        Shape{kLargest, 0, kLargest}}) {
    SCOPED_TRACE(shape.to_string());
    EXPECT_THROW(static_cast<void>(empty(shape)), UsageError);
    EXPECT_THROW(static_cast<void>(Tensor::borrow(memory, shape, DType::f32, kDevice)), UsageError);
    EXPECT_THROW(static_cast<void>(empty({4}).view(shape)), UsageError);
  }
}

TEST(Tensor, ViewsKeepTheNumberOfElements) {
  const Tensor tensor = empty({4, 6});
  EXPECT_EQ(tensor.view({2, 12}).shape(), (Shape{2, 12}));
  EXPECT_EQ(tensor.view({2, 12}).raw(), tensor.raw());
  EXPECT_THROW(static_cast<void>(tensor.view({5, 5})), UsageError);
  EXPECT_THROW(static_cast<void>(tensor.slice(1, 0, 3).view({12})), UsageError);
}

TEST(Tensor, WithoutElementsIsContiguousWhateverItsStrides) {
  const Tensor columns = empty({4, 6}).slice(1, 2, 2);
  EXPECT_TRUE(columns.is_contiguous());
  EXPECT_EQ(columns.view({0, 3}).shape(), (Shape{0, 3}));
  const Tensor rows = empty({4, 6}).slice(1, 0, 3).slice(0, 4, 4);
  EXPECT_TRUE(rows.is_contiguous());
  EXPECT_TRUE(empty({0}).is_contiguous());
}

TEST(Tensor, SlicesSeeTheSameMemory) {
  const Tensor tensor = empty({4, 6}, DType::bf16);
  const Tensor part = tensor.slice(0, 1, 3).slice(-1, 2, 6);
  EXPECT_EQ(part.shape(), (Shape{2, 4}));
  EXPECT_EQ(part.strides(), tensor.strides());
  EXPECT_EQ(part.raw() - tensor.raw(), (6 + 2) * 2);
  EXPECT_FALSE(part.is_contiguous());
  EXPECT_TRUE(part.slice(0, 0, 1).is_contiguous()) << "an extent of 1 may have any stride";
  for (const auto& [begin, end] : {std::pair<std::int64_t, std::int64_t>(-1, 2), {3, 2}, {0, 5}}) {
    EXPECT_THROW(static_cast<void>(tensor.slice(0, begin, end)), UsageError);
  }
  EXPECT_THROW(static_cast<void>(tensor.slice(2, 0, 1)), UsageError);
  EXPECT_THROW(static_cast<void>(tensor.dim(-3)), UsageError);
}

TEST(Tensor, ATransposedViewReachesTheSameElements) {
  const Tensor tensor = empty({2, 3, 4});
  const Tensor view = tensor.transpose(0, -1);
  EXPECT_EQ(view.shape(), (Shape{4, 3, 2}));
  EXPECT_EQ(view.strides(), (Shape{1, 4, 12}));
  EXPECT_EQ(view.raw(), tensor.raw());
  EXPECT_FALSE(view.is_contiguous());
  EXPECT_TRUE(view.transpose(2, 0).is_contiguous());
  EXPECT_THROW(static_cast<void>(tensor.transpose(0, 3)), UsageError);
}

TEST(Tensor, SplitsItsLastDimension) {
  const Tensor heads = empty({2, 12}).slice(1, 0, 8).split_last(4);
  EXPECT_EQ(heads.shape(), (Shape{2, 4, 2}));
  EXPECT_EQ(heads.strides(), (Shape{12, 2, 1}));
  EXPECT_THROW(static_cast<void>(empty({2, 12}).split_last(5)), UsageError);
  EXPECT_THROW(static_cast<void>(empty({2, 12}).split_last(0)), UsageError);
  const std::vector<std::int64_t> ones(Shape::kMaximumRank, 1);
  EXPECT_THROW(static_cast<void>(empty(Shape(ones)).split_last(1)), UsageError);
}

}  // namespace
}  // namespace portolan
