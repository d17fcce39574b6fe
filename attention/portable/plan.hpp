// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "attention/kernel.hpp"
#include "attention/mask.hpp"

/// What kernels of this folder prepare on the host. Plain C++, the same for all execution spaces.
namespace portolan::portable {

/// Empty if the method serves the problem.
[[nodiscard]] std::string unsupported_reason(AttentionMethod method, AttentionPass pass,
                                             const AttentionProblem& problem);

/// True for methods that work in tiles: the others go row by row.
[[nodiscard]] constexpr bool is_tiled(AttentionMethod method) {
  return method != AttentionMethod::standard && method != AttentionMethod::memory_efficient;
}

/// True where the preferred method is no tiled one, because the rows of a cache are known on the
/// device alone (CachedRowsForward).
[[nodiscard]] inline bool goes_by_cached_rows(AttentionMethod method,
                                              const AttentionProblem& problem) {
  return method == AttentionMethod::flash && problem.cached_rows.defined();
}

/// A list of tables, and of memory to be filled by kernels, that go into one allocation of the
/// device.
class Workspace {
 public:
  /// The table must live until allocate() has been called, which sets `address` to its copy.
  template <typename T>
  void add_table(const std::vector<T>& table, const T*& address) {
    add(table.data(), table.size() * sizeof(T),
        [&address](void* copy) { address = static_cast<const T*>(copy); });
  }
  template <typename T>
  void add_memory(std::size_t count, T*& address) {
    add(nullptr, count * sizeof(T),
        [&address](void* memory) { address = static_cast<T*>(memory); });
  }

  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  void allocate(Device device);

 private:
  struct Part {
    const void* source;  // null: memory to be filled
    std::size_t bytes;
    std::size_t offset;
    std::function<void(void*)> place;
  };

  void add(const void* source, std::size_t bytes, std::function<void(void*)> place);

  std::vector<Part> parts_;
  std::size_t bytes_ = 0;
  Tensor memory_;
};

/// The runs of a mask, and the tiles that teams of kernels hold; nothing if there are cached rows.
struct Tables {
  std::vector<RowTile> query_runs;
  std::vector<RowTile> key_runs;
  std::vector<RowTile> query_tiles;
  std::vector<RowTile> key_tiles;
  BlockMap transposed_blocks;  ///< of the backward pass, if there is a block map

  /// Tiles of `tile` rows; none if it is 0.
  Tables(const AttentionProblem& problem, AttentionPass pass, std::int64_t tile);
};

}  // namespace portolan::portable
