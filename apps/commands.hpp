// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace CLI {
class App;
}

/// The subcommands. Each function adds one to the command line, with its options, help and a
/// callback that runs it when the whole line has been read. A callback reports failure by throwing:
/// Error gives exit code 1, UsageError and InputError give 2 (core/error.hpp).
namespace portolan {

void add_attention_command(CLI::App& application);
/// bench attention, ring, collectives, decode, latency, matmul.
void add_bench_command(CLI::App& application);
void add_compare_command(CLI::App& application);
void add_convert_command(CLI::App& application);
void add_info_command(CLI::App& application);
void add_eval_command(CLI::App& application);
void add_fill_mask_command(CLI::App& application);
void add_generate_command(CLI::App& application);
/// inference: the published script's command line.
void add_inference_command(CLI::App& application);
void add_inspect_command(CLI::App& application);
void add_logits_command(CLI::App& application);
void add_plan_command(CLI::App& application);
void add_report_command(CLI::App& application);
void add_tokenize_command(CLI::App& application);
void add_train_command(CLI::App& application);
/// compare-worker: one job of a comparison, started by `compare`; not listed in the help.
void add_worker_command(CLI::App& application);

}  // namespace portolan
