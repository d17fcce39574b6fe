// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace portolan {

/// Writes "portolan: error: MESSAGE" to stderr as one line, whatever a file name, an argument or a
/// library put into the message.
void print_error(std::string_view message);

}  // namespace portolan
