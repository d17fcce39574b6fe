// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace portolan {

void add_bench_ring_command(CLI::App& bench);

}  // namespace portolan
