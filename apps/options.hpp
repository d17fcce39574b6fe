// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/device.hpp"
#include "core/dtype.hpp"
#include "core/quantization.hpp"
#include "models/parallel_context.hpp"

namespace CLI {
class App;
class Option;
}  // namespace CLI

/// Options that several commands share, and the checks they use, so that all commands spell, accept
/// and refuse the same things in the same words.
namespace portolan {

struct SampleLimits;  // apps/benchmark_samples.hpp

/// Upper bound of --ranks and of a mesh's axes.
inline constexpr int kMostRanks = 1 << 20;

struct CommonOptions {
  DeviceKind device = DeviceKind::cpu;
  std::optional<DType> dtype;            ///< absent: the model's own
  std::optional<ParallelMode> parallel;  ///< absent: from tp and cp, else none
  std::optional<int> tensor_parallel;    ///< --tp
  std::optional<int> context_parallel;   ///< --cp
  std::optional<int> planned_ranks;      ///< --ranks, of commands that start none
  bool sequence_parallel = false;
  std::uint64_t seed = 0;
  Quantization quantization = Quantization::none;  ///< --quantize
  LinkEmulation link;                              ///< --emulate-link
  std::string attention_tiles;                     ///< --attention-tiles; empty: none
  std::optional<int> threads;  ///< absent: OMP_NUM_THREADS, else cores / local ranks
  bool quiet = false;
  bool json = false;
};

/// An option whose text `store` reads; what `store` throws reaches the command line's edge as it
/// is.
CLI::Option* add_text_option(CLI::App& command, const std::string& name, const std::string& help,
                             const std::string& value_name,
                             const std::function<void(const std::string&)>& store);
/// An option that may be given several times, each time with one text, of whatever characters.
CLI::Option* add_texts_option(CLI::App& command, const std::string& name, const std::string& help,
                              const std::string& value_name, std::vector<std::string>& texts);
/// --dtype.
void add_dtype_option(CLI::App& command, const std::string& help, std::optional<DType>& dtype);
/// --dtypes A,B,C and --quantize A,B of commands that measure several; the values given are the
/// defaults.
void add_dtypes_option(CLI::App& command, std::vector<DType>& dtypes);
void add_quantizations_option(CLI::App& command, std::vector<Quantization>& quantizations);
/// --graph auto|on|off: whether decoding is recorded and repeated; absent is auto.
void add_graph_option(CLI::App& command, std::optional<bool>& record);
/// --repeat and --seconds, of the samples of a row.
void add_sample_options(CLI::App& command, SampleLimits& limits);

/// Throws UsageError "OPTION: REASON" for the first of these options that was given: where it would
/// have no effect.
void refuse_options(const CLI::App& command, std::initializer_list<const char*> options,
                    std::string_view reason);

/// --device, --seed, --threads.
void add_device_options(CLI::App& command, CommonOptions& options);
/// Those and --attention-tiles, of commands that may compute attention.
void add_run_options(CLI::App& command, CommonOptions& options);
/// --emulate-link, of commands whose ranks exchange data.
void add_link_option(CLI::App& command, CommonOptions& options);
/// --parallel, --tp, --cp, --sequence-parallel.
void add_layout_options(CLI::App& command, CommonOptions& options);
/// --dtype and those.
void add_mesh_options(CLI::App& command, CommonOptions& options);
/// The same and --ranks, of commands that reckon with ranks and start none.
void add_planned_mesh_options(CLI::App& command, CommonOptions& options);
/// --quantize, of commands that run a model without training it.
void add_quantize_option(CLI::App& command, CommonOptions& options);
/// --quiet, --json.
void add_output_options(CLI::App& command, CommonOptions& options);
/// All of these but --quantize: of commands whose ranks share a model.
void add_model_options(CLI::App& command, CommonOptions& options);
/// All of these: of commands that only run one.
void add_inference_options(CLI::App& command, CommonOptions& options);

/// Throw UsageError for what would have no effect on the device: tile sizes on another one than
/// cpu; and, among all run options, several threads on serial.
void check_attention_tiles(const CommonOptions& options);
void check_run_options(const CommonOptions& options);

/// The layout that the options ask for. Throws UsageError when they contradict each other or
/// `ranks`. USE_SEQUENCE_PARALLELISM=true in the environment turns tensor parallelism into tensor +
/// sequence parallelism.
[[nodiscard]] ParallelLayout choose_layout(const CommonOptions& options, int ranks);

/// The same for commands that start no ranks: as many as --tp and --cp or --ranks say. Throws
/// UsageError for more than kMostRanks, too.
[[nodiscard]] ParallelLayout choose_planned_layout(const CommonOptions& options);

/// Throws UsageError "OPTION: 'VALUE' is not one of A, B, C" unless `value` is one of `valid`.
void require_one_of(std::string_view option, std::string_view value,
                    std::initializer_list<std::string_view> valid);
void require_one_of(std::string_view option, std::string_view value,
                    std::span<const std::string> valid);

/// The items of "a,b,c", in order. Throws UsageError for an empty item or one that appears twice.
[[nodiscard]] std::vector<std::string> parse_list(std::string_view option, std::string_view text);

/// A whole number in [minimum, maximum], in decimal. Throws UsageError otherwise.
[[nodiscard]] std::int64_t parse_integer(std::string_view option, std::string_view text,
                                         std::int64_t minimum, std::int64_t maximum);

/// "4,1,2": whole numbers from 1 to `maximum`, each once; in ascending order. Throws UsageError.
[[nodiscard]] std::vector<std::int64_t> parse_integers(std::string_view option,
                                                       std::string_view text, std::int64_t maximum);

/// "a,b": items of `valid`, each once. Throws UsageError.
[[nodiscard]] std::vector<std::string> parse_names(std::string_view option, std::string_view text,
                                                   std::initializer_list<std::string_view> valid);

/// "500MB", "5GB", "1.5GB", "123": bytes, in powers of ten; at least 1. Throws UsageError.
[[nodiscard]] std::uint64_t parse_byte_count(std::string_view option, std::string_view text);

/// A finite number greater than 0, in decimal. Throws UsageError otherwise.
[[nodiscard]] double parse_positive_number(std::string_view option, std::string_view text);

}  // namespace portolan
