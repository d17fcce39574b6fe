// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string_view>

namespace portolan {

/// Writes beside the file and renames, so that a reader sees the old text or the new one and never
/// a part. Throws Error "PATH: ..." when it cannot, e.g. on a full disk.
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace portolan
