// SPDX-License-Identifier: Apache-2.0
// What `bench collectives` measures: that its error sees what a collective leaves out. Run under
// mpirun with 1, 2, 3 and 4 ranks.
#include <gtest/gtest.h>

#include <string>

#include "apps/collective_work.hpp"
#include "core/ops.hpp"
#include "tests/mpi/test_runtime.hpp"

namespace portolan {
namespace {

constexpr Collective kCollectives[] = {Collective::all_reduce, Collective::reduce_scatter,
                                       Collective::all_gather, Collective::broadcast,
                                       Collective::ring_shift};

TEST(CollectiveWork, ErrorIsThatOfRoundingOnceTheRanksHaveMetAndLargeBefore) {
  const int ranks = test_world().size();
  for (const Collective collective : kCollectives) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(std::string(name_of(collective)) + " " + std::string(name_of(dtype)));
      const CollectiveWork work({.collective = collective, .dtype = dtype, .bytes = 5000},
                                test_world(), test_device());
      work.write_inputs();
      const double before = work.error();
      if (ranks > 1) {
        EXPECT_GT(before, 0.5);
      }
      work.run();
      // Of sums below 4: their partial sums in f32, or one rounding to the 8 bits of bf16.
      EXPECT_LT(work.error(), dtype == DType::f32 ? 0x1p-21 : 1.001 * 0x1p-7);
    }
  }
}

TEST(CollectiveWork, ErrorSeesOneWrongElementOnAnyRank) {
  const int last = test_world().size() - 1;
  for (const Collective collective : kCollectives) {
    SCOPED_TRACE(name_of(collective));
    const CollectiveWork work({.collective = collective, .bytes = 5000}, test_world(),
                              test_device());
    work.write_inputs();
    work.run();
    if (test_world().rank() == last) {
      // The first element: of a ring, of a block that came from elsewhere.
      ops::fill(work.result().slice(0, 0, 1), 1000.0F);
    }
    if (last == 0 && collective == Collective::ring_shift) continue;  // nothing comes
    EXPECT_GT(work.error(), 900.0);
  }
}

TEST(CollectiveWork, ZerosStayZeros) {
  for (const Collective collective : kCollectives) {
    SCOPED_TRACE(name_of(collective));
    const CollectiveWork work({.collective = collective, .bytes = 5000}, test_world(),
                              test_device());
    work.write_inputs();
    work.run();
    work.clear_inputs();
    for (int i = 0; i < 3; ++i) work.run();
    EXPECT_EQ(ops::sum_of_squares(work.result()), 0.0);
  }
}

}  // namespace
}  // namespace portolan
