// SPDX-License-Identifier: Apache-2.0
#include "apps/published_results.hpp"

#include <array>

namespace portolan {
namespace {

constexpr std::array<PublishedPoint, 3> kCpuPoints{{
    {256, 16.77, 10.25, 2.43, 2.27, {}, {}},
    {512, 34.10, 19.50, 2.49, 2.36, {}, {}},
    {1024, 66.40, 40.22, 2.66, 2.63, {}, {}},
}};

constexpr std::array<PublishedPoint, 3> kGpuPoints{{
    {256, 0.14, 0.22, 27.40, 13.66, 30.65, 15.41},
    {512, 0.41, 0.42, 27.64, 13.90, 30.78, 15.54},
    {1024, 0.63, 0.61, 28.05, 14.31, 33.56, 18.31},
}};

constexpr std::array<PublishedTable, 2> kTables{{
    {"published, CPU", "Xeon Platinum 8460Y+, 2 sockets, 80 cores",
     "2 layers, batch 2, f32, 2 processes over gloo", "resident after the forward", kCpuPoints},
    {"published, GPU", "2 NVIDIA L40, 48 GB each", "32 layers, batch 2, f32, 2 processes over NCCL",
     "peak allocated", kGpuPoints},
}};

}  // namespace

std::span<const PublishedTable> published_sequence_parallel_tables() { return kTables; }

}  // namespace portolan
