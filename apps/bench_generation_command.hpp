// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace portolan {

/// bench decode: what a token costs beside the memory's read rate, and a prompt beside its
/// products.
void add_bench_decode_command(CLI::App& bench);
/// bench latency: the published inference table's procedure, with and without a cache.
void add_bench_latency_command(CLI::App& bench);

}  // namespace portolan
