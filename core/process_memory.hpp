// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

namespace portolan {

/// Physical memory of this process as the kernel counts it, in bytes: anonymous pages, mapped file
/// pages that are resident, and shared memory, each page whole in every process that maps it.
/// The kernel batches its updates per thread, so that figures may lag by some hundred kilobytes.
struct ProcessMemory {
  std::int64_t resident = 0;       ///< now: VmRSS
  std::int64_t resident_peak = 0;  ///< highest so far, or since reset_resident_peak(): VmHWM
};

/// Reads /proc/self/status. Throws Error where that does not exist or lacks the figures.
[[nodiscard]] ProcessMemory process_memory();

/// The figures in the text of a /proc/PID/status file. Throws Error if one is missing.
[[nodiscard]] ProcessMemory parse_process_status(std::string_view text);

/// Lowers the peak to what is resident now, by writing 5 to /proc/self/clear_refs. False if the
/// system does not permit that (some containers): the peak then remains that of the whole run.
[[nodiscard]] bool reset_resident_peak() noexcept;

}  // namespace portolan
