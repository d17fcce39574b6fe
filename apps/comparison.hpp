// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

/// What a comparison measured, as compare.json holds it.
namespace portolan {

/// Seconds of the timed forwards of one row.
struct TimeSamples {
  double median = 0.0;
  double minimum = 0.0;
  double maximum = 0.0;
  std::vector<double> samples;  ///< in the order they were taken
};

/// Bytes per rank, in rank order.
struct RowMemory {
  std::vector<std::int64_t> allocated_before_model;
  std::vector<std::int64_t> allocated_peak;
  std::vector<std::int64_t> reserved_peak;
  std::vector<std::int64_t> resident_peak;
  std::vector<std::int64_t> resident_before_model;
  std::vector<std::int64_t> weights;
  std::vector<std::int64_t> resident;  ///< after the forward, not a peak
  std::vector<std::int64_t> resident_peak_loading;
  std::vector<std::int64_t> formula;  ///< weights and activations, by the plan
  /// What resident_peak is the peak of: "this length", or "the process" where Linux does not let it
  /// be reset.
  std::string resident_peak_is_of;
};

/// Calls and bytes are summed over ranks, of one forward; seconds are the ranks' mean of the median
/// forward.
struct CollectiveUse {
  std::int64_t calls = 0;
  std::int64_t bytes = 0;
  double seconds = 0.0;
};

struct RowCommunication {
  std::int64_t calls = 0;
  std::int64_t bytes = 0;
  double seconds = 0.0;
  std::map<std::string, CollectiveUse> by_collective;
  /// Closed form of the plan; seconds unused. Absent in records without it.
  std::optional<std::map<std::string, CollectiveUse>> expected;
};

/// How the rows were taken: `fair` is a fresh process per mode, warmed up, repeated; `published` is
/// the order of events of the published experiment (apps/published_results.hpp).
enum class Protocol { fair, published };
[[nodiscard]] std::string_view name_of(Protocol protocol);
/// Throws UsageError for an unknown name.
[[nodiscard]] Protocol protocol_from_name(std::string_view name);

/// One mode, dtype, number of ranks and sequence length.
struct CompareRow {
  std::string mode;   ///< none, tp, sp or ring
  std::string dtype;  ///< f32, bf16 or f16
  Protocol protocol = Protocol::fair;
  std::int64_t seq_len = 0;
  std::int64_t batch = 0;
  std::int64_t layers = 0;
  int ranks = 1;
  int threads_per_rank = 1;
  /// The counters match the plan, nothing was allocated before the model, and the logits agree.
  bool proven = false;
  std::string reason;  ///< why not, in one sentence
  /// Absent in rows of jobs that failed.
  std::optional<TimeSamples> time_s;
  /// Seconds that the same matrix products take by themselves.
  std::optional<double> floor_s;
  RowMemory memory;
  RowCommunication communication;
  /// Largest |difference| of the sampled logits from the reference's, and where that came from:
  /// "none f32". Absent where there is nothing to compare with.
  std::optional<double> max_abs_difference;
  std::string difference_reference;
  /// Largest |logit| of the reference's samples: the scale of max_abs_difference.
  std::optional<double> largest_logit;
};

/// Sorts by protocol, dtype, mode (none, tp, sp, ring), ranks, length.
void sort_rows(std::vector<CompareRow>& rows);

/// Places of a mode and a dtype in the order that tables and plots show, from 0.
[[nodiscard]] int mode_place(const std::string& mode);
[[nodiscard]] int dtype_place(const std::string& dtype);

/// Mean over ranks of the communication time, as a share of the median forward; absent without
/// times.
[[nodiscard]] std::optional<double> communication_share(const CompareRow& row);

/// Largest element; absent when there is none.
[[nodiscard]] std::optional<std::int64_t> largest(const std::vector<std::int64_t>& values);

/// The row of the same dtype, length and protocol with mode `none`, or nullptr.
[[nodiscard]] const CompareRow* baseline_of(const CompareRow& row,
                                            const std::vector<CompareRow>& rows);

/// The first row that fits, or nullptr. `ranks` 0 takes any.
[[nodiscard]] const CompareRow* find_row(const std::vector<CompareRow>& rows, Protocol protocol,
                                         const std::string& mode, const std::string& dtype,
                                         std::int64_t seq_len, int ranks = 0);

/// One run of `portolan compare`.
struct Comparison {  // NOLINT(bugprone-exception-escape): the moves of nlohmann::json do not throw
  nlohmann::ordered_json environment;
  std::vector<CompareRow> rows;

  /// Short name of the machine for headings: CPU model and cores, from the environment.
  [[nodiscard]] std::string machine() const;
};

/// What the modes of a comparison had to compute on.
enum class Resources {
  equal_cores,    ///< the same number of cores in total
  unequal_cores,  ///< not so: device serial, or ranks that no number of cores is a multiple of
  gpu_each,       ///< a GPU for each rank
};
[[nodiscard]] Resources resources_of(const Comparison& comparison);

/// Checks one row's JSON; `source` and `path` start the messages. Throws InputError.
[[nodiscard]] CompareRow parse_row(const nlohmann::json& value, const std::string& source,
                                   const std::string& path);
[[nodiscard]] nlohmann::ordered_json to_json(const CompareRow& row);

/// Reads and checks a compare.json. Throws InputError "PATH: field 'rows[3].time_s.median': ...".
[[nodiscard]] Comparison read_comparison(const std::filesystem::path& path);
[[nodiscard]] nlohmann::ordered_json to_json(const Comparison& comparison);

}  // namespace portolan
