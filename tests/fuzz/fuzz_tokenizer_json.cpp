// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <string_view>

#include "core/error.hpp"
#include "models/tokenizers/tokenizer_json.hpp"
#include "models/tokenizers/unicode_text.hpp"

/// Any text gives an InputError or a tokenizer that turns text into ids and ids into UTF-8.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace portolan;
  try {
    const Tokenizer tokenizer =
        parse_tokenizer_json({reinterpret_cast<const char*>(data), size}, "fuzz");
    if (tokenizer.vocab_size() > size) std::abort();
    const auto ids = tokenizer.encode("the <s>A\xC3\xA4  12\n\xE6\x97\xA5");
    if (find_invalid_utf8(tokenizer.decode(ids))) std::abort();
  } catch (const Error&) {
    // A pattern may also run without end, and is stopped.
  }
  return 0;
}
