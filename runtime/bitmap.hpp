// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <hwloc.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <string>

#include "core/error.hpp"

namespace portolan {

/// Owns one of hwloc's bitmaps. Internal to runtime/: the only header that includes hwloc's.
class Bitmap {
 public:
  /// Takes ownership of what hwloc_bitmap_alloc or hwloc_bitmap_dup returned.
  explicit Bitmap(hwloc_bitmap_t bitmap) : bitmap_(bitmap) {
    if (bitmap == nullptr) throw std::bad_alloc();
  }

  /// From "0-3,8". Throws UsageError.
  [[nodiscard]] static Bitmap from_list(const std::string& list) {
    Bitmap bitmap(hwloc_bitmap_alloc());
    require(!list.empty() && list.find_first_not_of("0123456789,-") == std::string::npos &&
                hwloc_bitmap_list_sscanf(bitmap.get(), list.c_str()) == 0,
            "a list of processing units must look like \"0-3,8\", found \"{}\"", list);
    return bitmap;
  }

  /// As "0-3,8"; a last range that has no end is "8-".
  [[nodiscard]] static std::string list_of(hwloc_const_bitmap_t bitmap) {
    std::string text(static_cast<std::size_t>(hwloc_bitmap_list_snprintf(nullptr, 0, bitmap)) + 1,
                     '\0');
    hwloc_bitmap_list_snprintf(text.data(), text.size(), bitmap);
    text.pop_back();
    return text;
  }

  [[nodiscard]] hwloc_bitmap_t get() const noexcept { return bitmap_.get(); }

 private:
  struct Free {
    void operator()(hwloc_bitmap_t bitmap) const noexcept { hwloc_bitmap_free(bitmap); }
  };
  std::unique_ptr<hwloc_bitmap_s, Free> bitmap_;
};

}  // namespace portolan
