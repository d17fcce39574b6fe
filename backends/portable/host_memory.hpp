// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/allocator.hpp"

namespace portolan {

/// Host memory straight from the system, aligned to 2 MiB and backed by huge pages where the system
/// grants them (its default policy gives them only to those who ask). A segment grows in place up
/// to the size of the machine's memory: its addresses are reserved from the start. Pages come into
/// being where a thread first writes them, so a kernel that fills a tensor also places it.
[[nodiscard]] MemorySource host_memory_source();

}  // namespace portolan
