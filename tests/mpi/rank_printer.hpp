// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace portolan {

/// To be called after testing::InitGoogleTest and before the tests run under mpirun: rank 0 prints
/// as usual, the other ranks print nothing but their failures, on stderr and with the rank.
void print_tests_from_rank_zero(int rank);

}  // namespace portolan
