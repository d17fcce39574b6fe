// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace portolan {

/// bench collectives: time, bandwidth and error of what parallel models exchange.
void add_bench_collectives_command(CLI::App& bench);

}  // namespace portolan
