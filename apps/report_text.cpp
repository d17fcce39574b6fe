// SPDX-License-Identifier: Apache-2.0
#include "apps/report_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "apps/comparison_table.hpp"
#include "apps/html.hpp"
#include "apps/machine.hpp"
#include "apps/published_results.hpp"
#include "apps/report_plots.hpp"

namespace portolan {
namespace {

std::string tile(const std::string& figure, const std::string& text) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>\n", html_escape(figure),
                     html_escape(text));
}

std::string item(const std::string& text) { return "<li>" + html_escape(text) + "</li>\n"; }

std::int64_t longest_length(const Comparison& comparison) {
  std::int64_t longest = 0;
  for (const CompareRow& row : comparison.rows) {
    if (row.protocol == Protocol::fair && row.proven) longest = std::max(longest, row.seq_len);
  }
  return longest;
}

std::pair<std::size_t, std::size_t> proven_and_all(const Comparison& comparison) {
  std::pair<std::size_t, std::size_t> counts{0, 0};
  for (const CompareRow& row : comparison.rows) {
    if (row.protocol != Protocol::fair) continue;
    counts.first += row.proven ? 1 : 0;
    ++counts.second;
  }
  return counts;
}

/// The proven row of the longest length with the least value, or nullptr.
template <typename Value>
const CompareRow* least(const Comparison& comparison, const std::string& dtype, Value value) {
  const std::int64_t longest = longest_length(comparison);
  const CompareRow* best = nullptr;
  for (const CompareRow& row : comparison.rows) {
    if (row.protocol != Protocol::fair || !row.proven || row.seq_len != longest ||
        row.dtype != dtype) {
      continue;
    }
    if (best == nullptr || value(row) < value(*best)) best = &row;
  }
  return best;
}

double median_of(const CompareRow& row) { return row.time_s->median; }

double allocated_of(const CompareRow& row) {
  return static_cast<double>(largest(row.memory.allocated_peak).value_or(0));
}

std::string memory_text(double bytes) {
  return std::abs(bytes) < 1e9 ? fmt::format("{} MB", number_text(bytes / 1e6))
                               : fmt::format("{} GB", number_text(bytes / 1e9));
}

/// Times of the modes at the longest length against `none`.
std::string time_finding(const Comparison& comparison, const std::string& dtype) {
  const std::int64_t longest = longest_length(comparison);
  const CompareRow* none = find_row(comparison.rows, Protocol::fair, "none", dtype, longest);
  if (none == nullptr || !none->proven) return {};
  std::string text;
  std::string last_mode;
  for (const CompareRow& row : comparison.rows) {
    const auto ratio = time_over_none(row, comparison.rows);
    // Rows are sorted by ranks, so the first of a mode has the fewest.
    if (row.mode == last_mode || row.protocol != Protocol::fair || !row.proven ||
        row.dtype != dtype || row.seq_len != longest || row.mode == "none" || !ratio) {
      continue;
    }
    text += fmt::format("{}{:.2f} times that for {} on {} ranks", text.empty() ? "" : ", ", *ratio,
                        row.mode, row.ranks);
    last_mode = row.mode;
  }
  if (text.empty()) return {};
  const Resources resources = resources_of(comparison);
  return fmt::format("{}, length {}{}: {} s for none, {}.", dtype, longest,
                     resources == Resources::equal_cores ? ", on the same cores"
                     : resources == Resources::gpu_each  ? ", a GPU for each rank"
                                                         : "",
                     number_text(none->time_s->median), text);
}

/// What SP saves against TP at the shortest and the longest length.
std::string saving_finding(const Comparison& comparison, const std::string& dtype) {
  const auto pairs = tp_sp_pairs(comparison, dtype, Protocol::fair);
  if (pairs.size() < 2) return {};
  const auto saving_text = [](const auto& pair) {
    const double bytes = allocated_of(*pair.first) - allocated_of(*pair.second);
    return fmt::format("{} {} at length {}", memory_text(std::abs(bytes)),
                       bytes >= 0.0 ? "less" : "more", pair.first->seq_len);
  };
  return fmt::format("{}: against tp, sp allocates per rank {} and {}, of {} in all.", dtype,
                     saving_text(pairs.front()), saving_text(pairs.back()),
                     memory_text(allocated_of(*pairs.back().first)));
}

std::string agreement_finding(const Comparison& comparison, const std::string& dtype) {
  double worst = -1.0;
  for (const CompareRow& row : comparison.rows) {
    if (row.protocol == Protocol::fair && row.proven && row.dtype == dtype && row.mode != "none" &&
        row.max_abs_difference && row.largest_logit && *row.largest_logit > 0.0) {
      worst = std::max(worst, *row.max_abs_difference / *row.largest_logit);
    }
  }
  if (worst < 0.0) return {};
  return fmt::format(
      "{}: the logits of all modes agree with those of none; the largest difference is {} of the "
      "largest logit.",
      dtype, number_text(worst));
}

/// What a reader has to know before believing the rows.
std::vector<std::string> reservations(const Comparison& comparison) {
  std::vector<std::string> texts;
  const auto& environment = comparison.environment;
  if (environment.contains("interruption") && environment["interruption"].is_string()) {
    texts.push_back(fmt::format("This comparison was {}: the rows of the others are missing.",
                                environment["interruption"].get<std::string>()));
  }
  const auto machine = environment.find("machine");
  if (machine == environment.end() || !machine->is_object()) return texts;
  const auto number = [&machine](const char* name) {
    const auto found = machine->find(name);
    return found != machine->end() && found->is_number() ? found->get<double>() : 0.0;
  };
  if (const double load = number("load_average"); is_busy(load, number("usable_cores"))) {
    texts.push_back(fmt::format(
        "Other work was running on the machine when this began (load average {:.1f}): the times "
        "are longer and spread more than they would alone.",
        load));
  }
  return texts;
}

}  // namespace

std::string findings_list(const std::vector<Comparison>& comparisons) {
  std::string text;
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    const Comparison& comparison = comparisons[i];
    std::string list;
    for (const std::string& reservation : reservations(comparison)) list += item(reservation);
    const auto [proven, all] = proven_and_all(comparison);
    if (all > 0) {
      list +=
          item(proven == all
                   ? fmt::format("All {} rows are proven: their communication counters equal the "
                                 "plan's closed form call for call and byte for byte, and nothing "
                                 "was allocated before their model.",
                                 all)
                   : fmt::format("{} of {} rows are proven; the others are refused, with the "
                                 "reason in the table, and not drawn.",
                                 proven, all));
    }
    for (const std::string& dtype : dtypes_of(comparison)) {
      for (const std::string& sentence :
           {time_finding(comparison, dtype), saving_finding(comparison, dtype),
            agreement_finding(comparison, dtype)}) {
        if (!sentence.empty()) list += item(sentence);
      }
    }
    if (list.empty()) continue;
    if (comparisons.size() > 1) {
      text += fmt::format("<h3>Machine {}: {}</h3>\n", i + 1, html_escape(comparison.machine()));
    }
    text += "<ul>\n" + list + "</ul>\n";
  }
  return text;
}

std::string summary_tiles(const Comparison& comparison) {
  const auto [proven, all] = proven_and_all(comparison);
  const std::int64_t longest = longest_length(comparison);
  std::string text = tile(fmt::format("{} of {}", proven, all), "rows proven");
  for (const std::string& dtype : dtypes_of(comparison)) {
    if (const CompareRow* row = least(comparison, dtype, median_of)) {
      text += tile(fmt::format("{} s", number_text(row->time_s->median)),
                   fmt::format("fastest {} forward of length {}: {}", dtype, longest, row->mode));
    }
    if (const CompareRow* row = least(comparison, dtype, allocated_of)) {
      text +=
          tile(fmt::format("{} GB", gigabytes_text(static_cast<std::int64_t>(allocated_of(*row)))),
               fmt::format("least {} memory per rank: {}", dtype, row->mode));
    }
  }
  return "<div class=\"tiles\">\n" + text + "</div>\n";
}

std::string experiment_text(const Comparison& comparison) {
  std::string preset = "model";
  const auto& environment = comparison.environment;
  if (environment.contains("experiment") && environment["experiment"].is_object() &&
      environment["experiment"].contains("preset") &&
      environment["experiment"]["preset"].is_string()) {
    preset = environment["experiment"]["preset"].get<std::string>();
  }
  const CompareRow& row = comparison.rows.front();
  return fmt::format("{}, {} layer{}, batch {}", preset, row.layers, row.layers == 1 ? "" : "s",
                     row.batch);
}

std::string resources_text(const std::vector<Comparison>& comparisons) {
  std::set<Resources> all;
  for (const Comparison& comparison : comparisons) all.insert(resources_of(comparison));
  if (!all.contains(Resources::unequal_cores) && !all.contains(Resources::gpu_each)) {
    return "All modes had the same cores in total.";
  }
  std::string text;
  if (all.contains(Resources::unequal_cores)) {
    text = "The modes had different numbers of cores in total: the rows say how many.";
  }
  if (all.contains(Resources::gpu_each)) {
    text += text.empty() ? "" : " ";
    text += "On GPUs each rank has one, so that two ranks have twice what none has.";
  }
  return text;
}

std::string method_section(const std::vector<Comparison>& comparisons) {
  std::set<std::size_t> samples;
  for (const Comparison& comparison : comparisons) {
    for (const CompareRow& row : comparison.rows) {
      if (row.protocol == Protocol::fair && row.time_s) samples.insert(row.time_s->samples.size());
    }
  }
  std::string count = "several";
  if (samples.size() == 1) {
    count = *samples.begin() == 1 ? "one" : fmt::format("{}", *samples.begin());
  }
  return fmt::format(
      "<p>Each mode and dtype ran in fresh processes, in shuffled order. {} <em>none</em> is one "
      "rank. Times are medians of {} forward{} "
      "after warming up, from a barrier to the last rank's end; the bars reach from the fastest to "
      "the slowest. <em>× floor</em> divides by the time that the model's matrix products take "
      "alone, <em>× none</em> by the time of <em>none</em>. Memory is that of the rank with the "
      "most: <em>allocated</em> and <em>reserved</em> are the peaks of Portolan's allocator, "
      "<em>resident</em> the peak that the operating system counts, libraries included. A GB is "
      "10<sup>9</sup> bytes. Weights and tokens are random, the same in every mode.</p>\n",
      resources_text(comparisons), count, count == "one" ? "" : "s");
}

std::string protocol_section() {
  return "<p>The published tests run SP first and TP second in one process, take one forward per "
         "length without warming up, and read the process' peak afterwards. The same order of "
         "events was repeated here with Portolan, beside the fair one. Two things show: a first "
         "forward pays for what later ones find ready (pages, buffers, prepared products), and "
         "whatever runs second is charged for the model that is still there. These rows are drawn "
         "to show that, and count as nothing else.</p>\n";
}

std::string comparability_section() {
  return fmt::format(
      "<p>Sequence parallelism joined to tensor parallelism was added to IBM's Foundation Model "
      "Stack in <cite>{}</cite>. Its authors published their tests and job scripts beside their "
      "numbers, and only that makes the following reading possible. Each point says what is on "
      "record, and what we infer from it.</p>\n"
      "<dl>\n"
      "<div><dt>GPU memory: the level of the TP column</dt>\n"
      "<dd><b>On record.</b> TP minus SP is 13.74 GB at 256, at 512 and at 1024 tokens. Half of "
      "LLaMA-7B's f32 weights is 6,738,415,616 × 4 / 2 bytes = 13.48 GB; the other 0.26 GB is, "
      "within rounding, one tensor of f32 logits [2, 1024, 32000]. The test makes the SP model "
      "first and the TP model second in the same process, and reads the peak of allocated memory. "
      "<b>Inference.</b> The TP column most likely still holds the SP model's weights. What SP can "
      "save in inference are activations: at 1024 tokens about 16.8 MB for each live tensor of the "
      "residual stream, growing with the length. So the difference between the two columns should "
      "not be read as a saving; the growth within each of them can be compared.</dd></div>\n"
      "<div><dt>CPU times: cores per process</dt>\n"
      "<dd><b>On record.</b> For TP, 16.77, 34.10 and 66.40 s are one and the same rate, 16.4 "
      "GFLOP/s per rank; SP runs at 27 to 28. The launcher, torchrun, sets OMP_NUM_THREADS=1 when "
      "it starts several processes and the variable is not set, and the job script does not set "
      "it. <b>Inference.</b> Each process very likely used one of the machine's 80 cores. These "
      "seconds compare with runs of one thread per rank, not with a whole machine.</dd></div>\n"
      "<div><dt>CPU times: the ratio of SP to TP</dt>\n"
      "<dd><b>On record.</b> TP takes 1.64, 1.75 and 1.65 times as long as SP. An all-reduce moves "
      "the same bytes as a reduce-scatter and an all-gather, so both modes send equally much, and "
      "the ratio does not grow with the length. <b>Inference.</b> Less traffic cannot be the "
      "cause. The published material does not settle what is, so no such ratio should be expected "
      "elsewhere.</dd></div>\n"
      "<div><dt>One forward per point</dt>\n"
      "<dd><b>On record.</b> Every number is a single forward; on the GPUs SP had a tiny warm-up "
      "forward and TP none. There TP takes 0.64, 0.98 and 1.03 times as long as SP. "
      "<b>Inference.</b> Nothing is known of the spread, so differences of a few per cent, such as "
      "the crossing at 1024 tokens, may be chance.</dd></div>\n"
      "<div><dt>CPU memory: what is counted</dt>\n"
      "<dd><b>On record.</b> The CPU column is the resident set after a forward, not a peak, with "
      "all libraries in it. <b>Inference.</b> It can be compared with our resident column, "
      "loosely.</dd></div>\n"
      "<div><dt>Ring attention</dt>\n"
      "<dd><b>On record.</b> The study in <cite>{}</cite> reports about {:.0f} ms on one GPU and "
      "about {:.0f} ms on four NVIDIA L40S for LLaMA 3 8B with up to {} tokens (1.5 times as "
      "fast), and the same output as one GPU. <b>Inference.</b> Model, lengths and devices are "
      "others than here. Only the last can be set beside our rows: the logits of ring attention "
      "agree with those of one rank.</dd></div>\n"
      "<div><dt>This page</dt>\n"
      "<dd>Seconds of different machines say little about each other. What can be compared across "
      "them are the ratios between modes, how they change with the length, calls and bytes per "
      "forward, and memory per rank. Ranks on one machine exchange data through shared memory, "
      "which is neither a network nor NVLink: a mode that costs little here may cost more "
      "there.</dd></div>\n"
      "</dl>\n",
      kSequenceParallelSource, kRingSource, kPublishedRing.one_gpu_ms, kPublishedRing.four_gpus_ms,
      kPublishedRing.longest_prompt);
}

}  // namespace portolan
