// SPDX-License-Identifier: Apache-2.0
#include <CLI/CLI.hpp>

#include "apps/bench_attention_command.hpp"
#include "apps/bench_collectives_command.hpp"
#include "apps/bench_generation_command.hpp"
#include "apps/bench_matmul_command.hpp"
#include "apps/bench_ring_command.hpp"
#include "apps/commands.hpp"

namespace portolan {

void add_bench_command(CLI::App& application) {
  CLI::App* command = application.add_subcommand("bench", "Measure one part of the engine");
  command->require_subcommand(1);
  add_bench_attention_command(*command);
  add_bench_ring_command(*command);
  add_bench_collectives_command(*command);
  add_bench_decode_command(*command);
  add_bench_latency_command(*command);
  add_bench_matmul_command(*command);
  command->footer(
      "Examples:\n"
      "  portolan bench attention\n"
      "  portolan bench decode\n"
      "  portolan bench matmul\n"
      "  mpirun -n 2 portolan bench collectives\n"
      "  mpirun -n 2 portolan bench ring");
}

}  // namespace portolan
