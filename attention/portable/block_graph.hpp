// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/compat/kokkos.hpp"
#if defined(PORTOLAN_HAS_KOKKOS_KERNELS)
#include <KokkosSparse_CrsMatrix.hpp>
#endif

namespace portolan::portable {

#if defined(PORTOLAN_HAS_KOKKOS_KERNELS)

/// Row map and entries of a block map: the graph of a compressed-row matrix of Kokkos Kernels.
template <class Space>
using BlockGraph = typename KokkosSparse::CrsMatrix<
    float, std::int32_t, Kokkos::Device<Space, typename Space::memory_space>,
    Kokkos::MemoryTraits<Kokkos::Unmanaged>, std::int32_t>::staticcrsgraph_type;

#else

/// What the kernels use of Kokkos Kernels' graph, for builds that are without that library.
/// (Kokkos' own StaticCrsGraph is gone from version 5.)
template <class Space>
class BlockGraph {
 public:
  using entries_type = Kokkos::View<std::int32_t*, Kokkos::LayoutLeft, typename Space::memory_space,
                                    Kokkos::MemoryTraits<Kokkos::Unmanaged> >;
  using row_map_type =
      Kokkos::View<const std::int32_t*, Kokkos::LayoutLeft, typename Space::memory_space,
                   Kokkos::MemoryTraits<Kokkos::Unmanaged> >;

  struct Row {
    const std::int32_t* columns;
    std::int32_t length;
    KOKKOS_INLINE_FUNCTION std::int32_t operator()(std::int32_t i) const { return columns[i]; }
  };

  BlockGraph() = default;
  BlockGraph(const entries_type& entries, const row_map_type& row_map)
      : entries_(entries), row_map_(row_map) {}

  [[nodiscard]] KOKKOS_INLINE_FUNCTION Row rowConst(std::int32_t row) const {
    return {entries_.data() + row_map_(row), row_map_(row + 1) - row_map_(row)};
  }

 private:
  entries_type entries_;
  row_map_type row_map_;
};

#endif

/// A BlockMap where kernels reach it; empty if there is none.
template <class Space>
struct BlockView {
  BlockGraph<Space> graph;
  std::int64_t block_rows = 0;  ///< 0: no map, all blocks are computed
  std::int64_t row_tokens = 1;
  std::int64_t column_tokens = 1;
};

}  // namespace portolan::portable
