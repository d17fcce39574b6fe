// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

namespace portolan {

/// Copies what a model folder may hold beside config and weights and that belongs to the model: its
/// tokenizer, chat template and generation config. Throws Error when a file cannot be copied.
void copy_companion_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace portolan
