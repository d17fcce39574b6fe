// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

namespace portolan {

/// bench matmul: time, rates and error of the products of linear layers.
void add_bench_matmul_command(CLI::App& bench);

}  // namespace portolan
